"""Files of statistics that Fisher merging and RegMean need: one per model, on the model's own data.

A recipe names the file of each model. It is read lazily, and checked before any weight is read. It
is one safetensors file with the model's tensor names, written by evaluation/model_statistics.py:

    fisher    the diagonal of the Fisher information; each tensor's shape
    gram      for the weight of each linear layer, the mean of xᵀx over its inputs x;
              shape (inputs, inputs)

Its metadata has one entry, `dem_statistics`, a JSON object; see StatisticsFacts.
"""

import json
import os
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging.errors import CheckpointError, ExportError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.digest import combined
from merging.inputs.header import header_bytes
from merging.inputs.strict_json import check_types, parse_json
from merging.methods._values import Statistic
from merging.paths import exists

KEY = "dem_statistics"


FORMAT = 1


KINDS = ("fisher", "gram")


class StatisticsFacts(NamedTuple):
    """The description in a file of statistics: all that is needed to collect them again.

    Attributes:
        kind: one of KINDS.
        model: the digest of the model's weights; see Checkpoint.digest.
        datasets: names of the datasets that were used.
        examples: number of examples.
        tokens: fisher: number of supervised tokens; gram: number of positions whose inputs were
            summed.
        sampled: fisher: whether the labels were sampled from the model, not taken from the data.
        seed: the seed of the sampling.
        norm: the L2 norm of all values.
        inputs_first: gram: the weights that are stored as (inputs, outputs), as in GPT-2; all
            others are (outputs, inputs).
        versions: library -> version.
        format: the version of this format.
    """

    kind: str
    model: str
    datasets: list[str]
    examples: int
    tokens: int
    sampled: bool
    seed: int
    norm: float
    inputs_first: list[str]
    versions: dict[str, str]
    format: int = FORMAT


class Statistics:
    """One file of statistics. Two are equal if they are the same file and it has not changed.

    Args:
        path: the file.

    Raises:
        CheckpointError: if the file is missing or is not a file of statistics.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (exists(self.path) and self.path.is_file()):
            raise CheckpointError(
                f"{self.path} is not a file. Give the safetensors file that `dem statistics` "
                "wrote; hub ids are not read here."
            )
        self.stored = Checkpoint(self.path.parent, file=self.path.name)
        self.facts = _read_facts(self.path, self.stored.metadata)

    @cached_property
    def digest(self) -> str:
        """The digest of its numbers and its description; the first use may read them."""
        return combined(self.stored.digest, self.stored.metadata[KEY])

    @cached_property
    def sampled_digest(self) -> str:
        """As earlier versions gave it; see Checkpoint.sampled_digest."""
        return self.stored.sampled_digest

    # Tasks hold statistics, and are compared to find what must be computed again.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Statistics) and self.stored.files == other.stored.files

    def __hash__(self) -> int:
        return hash(self.stored.files)

    def __repr__(self) -> str:
        return f"Statistics({str(self.path)!r}: {self.facts.kind})"

    def at(
        self, name: str, span: tuple[int, int], shape: tuple[int, ...], dtype: torch.dtype
    ) -> Statistic | None:
        """Reads the statistic of one block of a tensor; None if the file has none for it.

        Args:
            name: the tensor.
            span: the block's first element and one past its last. A Gram matrix ignores it,
                because it belongs to the whole tensor.
            shape: the shape of the block.
            dtype: the dtype of the result.

        Returns:
            fisher: values of the block's shape; gram: the matrix (inputs, inputs).
        """
        if name not in self.stored:
            return None
        if self.facts.kind == "gram":
            return Statistic(self.stored[name].to(dtype), self.facts.norm, self.axis(name))
        return Statistic(self.stored.block(name, *span).to(dtype).view(shape), self.facts.norm)

    def axis(self, name: str) -> int:
        """Returns the axis of a linear layer's weight that belongs to its inputs: 0 or 1."""
        return 0 if name in self.facts.inputs_first else 1


def _read_facts(path: Path, metadata: Mapping[str, str]) -> StatisticsFacts:
    """Reads the description strictly: exactly its keys, each of its type."""
    if KEY not in metadata:
        raise CheckpointError(
            f"{path} holds no statistics: its metadata has no {KEY}. Give a file that "
            "`dem statistics` wrote."
        )
    document: Any = parse_json(metadata[KEY].encode(), f"{path}: {KEY}")
    # list[str] cannot be compared with a value's type, so its origin, list, is.
    kinds: Mapping[str, Any] = {
        key: getattr(hint, "__origin__", hint)
        for key, hint in StatisticsFacts.__annotations__.items()
    }
    if not isinstance(document, dict) or set(document) != set(kinds):
        raise CheckpointError(
            f"{path}: {KEY} is not what `dem statistics` writes: expected {', '.join(kinds)}."
        )
    if document["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: format is {document['format']!r}, this version reads {FORMAT}. Update this "
            "program to use the file."
        )
    check_types(document, kinds, f"{path}: {KEY}")
    return StatisticsFacts(**document)


def check_target(out: str | Path, nbytes: int = 0) -> None:
    """Checks that a file can be written; call it before hours of collecting statistics.

    Args:
        out: the file to make.
        nbytes: its size.

    Raises:
        ExportError: if the file exists, its folder cannot be written, or the disk is too full.
    """
    out = Path(out)
    # lexists, because a broken link is in the way too.
    if os.path.lexists(out):
        raise ExportError(
            f"{out} exists. Give the name of a new file; existing files are never overwritten."
        )
    if not (exists(out.parent) and out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise ExportError(
            f"{out.parent} is not a folder that can be written. Make it first, or give another "
            "file."
        )
    free = shutil.disk_usage(out.parent).free
    if free < nbytes:
        raise ExportError(
            f"{out.parent} has {free / 1e9:.2f} GB free, the statistics need "
            f"{nbytes / 1e9:.2f} GB. Free some space, or give a file on another disk."
        )


def write(out: str | Path, facts: StatisticsFacts, tensors: Mapping[str, Tensor]) -> None:
    """Writes statistics as float32; the file appears complete or not at all.

    Args:
        out: the file to make; it must not exist.
        facts: its description.
        tensors: the model's tensor names -> statistics, of any dtype and layout.

    Raises:
        ExportError: if the file exists or cannot be written; nothing is left behind then.
    """
    out = Path(out)
    # Once more: while the statistics were collected, the disk may have filled up.
    check_target(out, sum(4 * value.numel() for value in tensors.values()))
    stored = [(name, torch.float32, tuple(value.shape)) for name, value in tensors.items()]
    # Written beside the target and linked when complete, so no reader sees half a file. The process
    # id keeps two writers apart.
    draft = out.with_name(f".{out.name}.{os.getpid()}.draft")
    try:
        with draft.open("xb") as file:
            file.write(header_bytes(stored, {"format": "pt", KEY: json.dumps(facts._asdict())}))
            for value in tensors.values():
                flat = value.detach().float().cpu().contiguous().view(-1)
                file.write(flat.view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, out)  # unlike a rename, it fails if the file has been made meanwhile
    except OSError as error:
        raise ExportError(
            f"{out} could not be written: {error.strerror or error}. Nothing was left behind."
        ) from None
    finally:
        draft.unlink(missing_ok=True)
