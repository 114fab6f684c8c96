"""Converts a GGUF file into a Hugging Face folder, whole or not at all.

A GGUF file comes from anywhere and is read by libraries that trust it. So it is read by a process
of its own (workbench/gguf/reader.py), which may take a bounded amount of memory and time, and whose
death is an error message here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from merging.outputs.staging import staging_folder
from plumbing.units import size
from training.run.memory import free_bytes
from training.run.rights import give_usual_rights
from workbench.errors import SessionError
from workbench.gguf.model_card import model_card

DTYPES = ("float32", "bfloat16", "float16")
"""Dtypes in which the weights can be written; float32 keeps every dequantised value."""

MEMORY_AT_LEAST, MEMORY_PER_BYTE = 2**30, 64
"""The most memory that the reader may take: a part of its own, and a multiple of the file's size.

The smallest blocks have 1.6 bits per weight, so a weight in float32 takes 20 times its size in the
file, and there are up to two of each at a time.
"""

SECONDS_AT_LEAST, BYTES_PER_SECOND = 300, 2_000_000
"""The longest that the reader may take: a part of its own, and the file at this pace."""


class Converted(NamedTuple):
    """What was written."""

    folder: Path
    parameters: int
    """Number of weights."""
    types: dict[str, int]
    """Name of a type in the file, such as "Q4_1" -> number of weights that it stores."""
    notes: tuple[str, ...]
    """What the reader of the result should know."""

    @property
    def quantised(self) -> bool:
        """Whether weights were stored in fewer than 16 bits."""
        return bool(set(self.types) - {"F64", "F32", "F16", "BF16"})


def convert(file: Path, out: Path, dtype: str = "float32") -> Converted:
    """Writes the model of a GGUF file to the new folder `out`, with its tokenizer and a model card.

    Args:
        file: a GGUF file of an architecture that transformers reads.
        out: the folder to make; must not exist. It appears complete or not at all.
        dtype: of the written weights, one of DTYPES.

    Raises:
        SessionError: the file cannot be read or converted, or `out` exists. Nothing is written.
        ExportError: there is no room for `out`, or its parent is no folder.
    """
    _check(file, out, dtype)
    # The result is larger than the file; how much, only the reader knows.
    with staging_folder(out, file.stat().st_size) as staged:
        facts = _read(file, staged, dtype)
        done = Converted(out, facts["parameters"], facts["types"], tuple(facts["notes"]))
        card = model_card(facts, file.name, _sha256(file), dtype, done.quantised)
        (staged / "README.md").write_text(card, "utf-8")
        give_usual_rights(staged)
    return done


def _check(file: Path, out: Path, dtype: str) -> None:
    """Refuses what can be refused without reading the file."""
    if dtype not in DTYPES:
        raise SessionError(f"dtype is {dtype!r}; expected one of: {', '.join(DTYPES)}.")
    if out.exists():
        raise SessionError(f"{out} exists already. Give a new folder; nothing is overwritten.")
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise SessionError(f"{file} {what}. Give the path of a GGUF file.")
    with file.open("rb") as opened:
        start = opened.read(8)
    if start[:4] != b"GGUF":
        raise SessionError(
            f"{file} does not begin with the bytes GGUF, so it is no GGUF file. A folder of "
            "safetensors needs no conversion."
        )
    check_package()


def check_package() -> None:
    """Refuses to go on without the package that reads GGUF files.

    Raises:
        SessionError: it is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise SessionError(
            "reading a GGUF file needs the package gguf, and it is not installed. "
            "Install it: pip install gguf."
        )


def _read(file: Path, staged: Path, dtype: str) -> dict[str, Any]:
    """Runs the reader, which writes the folder, and returns what it says about the file."""
    nbytes = file.stat().st_size
    most = min(free_bytes("cpu"), MEMORY_AT_LEAST + MEMORY_PER_BYTE * nbytes)
    request = {"file": str(file.resolve()), "out": str(staged), "dtype": dtype, "memory": most}
    # Without an accelerator, whose libraries map more memory than the limit, and without the hub.
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip
    command = [sys.executable, "-m", "workbench.gguf.reader", json.dumps(request)]
    seconds = SECONDS_AT_LEAST + nbytes // BYTES_PER_SECOND
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise SessionError(
            f"{file} was not read after {seconds:,} s, and the reading was ended. A file of "
            f"{size(nbytes)} should take a fraction of that: it is damaged, or made to do harm."
        ) from None
    answer = _answer(done.stdout)
    if answer is None:
        raise SessionError(_how_it_ended(file, done, most))
    if "refused" in answer:
        raise SessionError(f"{file}: {answer['refused']}")
    facts: dict[str, Any] = answer["facts"]
    return facts


def _answer(stdout: str) -> dict[str, Any] | None:
    """Returns the reader's answer, its last line; None if it gave none."""
    for line in reversed(stdout.splitlines()):
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and answer.keys() & {"facts", "refused"}:
            return answer
    return None


def _how_it_ended(file: Path, done: subprocess.CompletedProcess[str], most: int) -> str:
    """Describes the end of a reader that gave no answer."""
    if done.returncode == -signal.SIGBUS:
        return f"{file} became shorter while it was read. Copy it anew, and convert it again."
    if done.returncode in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT):
        return (
            f"{file}: the process that read it was ended by the system "
            f"({signal.Signals(-done.returncode).name}); it may take {size(most)} of memory. Close "
            "other programs, or convert it on a machine with more memory."
        )
    last = done.stderr.strip().splitlines()[-1:] or ["no message"]
    return f"{file}: the process that read it ended with code {done.returncode}: {last[0]}"


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
