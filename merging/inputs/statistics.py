"""Statistics of a model on its own data, as a file that a recipe names for it: read lazily, checked before any weight.

The file is one safetensors file with the model's tensor names, written by evaluation/model_statistics.py:

    fisher    the diagonal of the Fisher information, of each tensor's shape
    gram      for the weights of linear layers the mean of xᵀx over their inputs x, (inputs, inputs)

Its metadata holds one entry, `dem_statistics`, a JSON object; see Facts.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from merging.errors import CheckpointError, ExportError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.header import parse_json, written_header
from merging.methods._contract import Statistic
from merging.paths import exists

if TYPE_CHECKING:
    pass

KEY = "dem_statistics"


FORMAT = 1


KINDS = ("fisher", "gram")


class StatisticsFacts(NamedTuple):
    """What a file says of itself: enough to collect it again."""

    kind: str
    """One of KINDS."""
    model: str
    """The digest of the weights that it was collected on; see Checkpoint.digest."""
    datasets: list[str]
    examples: int
    tokens: int
    """fisher: supervised tokens; gram: positions whose inputs were summed."""
    sampled: bool
    """fisher: whether the tokens were drawn from the model and not taken from the data."""
    seed: int
    norm: float
    """The L2 norm of all values."""
    inputs_first: list[str]
    """gram: the tensors that are stored as (inputs, outputs), as GPT-2's are; all others are (outputs, inputs)."""
    versions: dict[str, str]
    format: int = FORMAT


class Statistics:
    """One file of statistics. Two are equal when they are the same file, unchanged.

    Args:
        path: the file.

    Raises:
        CheckpointError: when it is missing, or not such a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (exists(self.path) and self.path.is_file()):
            raise CheckpointError(
                f"{self.path} is not a file. Give the safetensors file that `dem statistics` wrote; hub ids are not "
                "read here."
            )
        self.stored = Checkpoint(self.path.parent, file=self.path.name)
        self.facts = _facts(self.path, self.stored.metadata)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Statistics) and self.stored.identity == other.stored.identity

    def __hash__(self) -> int:
        return hash(self.stored.identity)

    def __repr__(self) -> str:
        return f"Statistics({str(self.path)!r}: {self.facts.kind})"

    def at(
        self, name: str, span: tuple[int, int], shape: tuple[int, ...], dtype: torch.dtype
    ) -> Statistic | None:
        """What it says of one block of a tensor, freshly read; None where it says nothing.

        Args:
            name: the tensor.
            span: the first element of the block and the one after its last; a Gram matrix is for the whole tensor.
            shape: of the block.
            dtype: of the result.
        """
        if name not in self.stored:
            return None
        if self.facts.kind == "gram":
            return Statistic(self.stored[name].to(dtype), self.facts.norm, self.axis(name))
        return Statistic(self.stored.block(name, *span).to(dtype).view(shape), self.facts.norm)

    def axis(self, name: str) -> int:
        """Along which axis of a linear layer's weight its inputs lie."""
        return 0 if name in self.facts.inputs_first else 1


def _facts(path: Path, metadata: Mapping[str, str]) -> StatisticsFacts:
    if KEY not in metadata:
        raise CheckpointError(
            f"{path} holds no statistics, its metadata has no {KEY}. Give a file that `dem statistics` wrote."
        )
    document: Any = parse_json(metadata[KEY].encode(), f"{path}: {KEY}")
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
            f"{path}: format is {document['format']!r}, this version reads {FORMAT}: update to use it."
        )
    for key, kind in kinds.items():
        if type(document[key]) is not kind:
            raise CheckpointError(
                f"{path}: {KEY}: {key} is {repr(document[key])[:80]}, expected {kind.__name__}."
            )
    return StatisticsFacts(**document)


def check_target(out: str | Path, nbytes: int = 0) -> None:
    """Raise an ExportError for a place where no file of this size can be made; ask before hours of collecting."""
    out = Path(out)
    if os.path.lexists(out):
        raise ExportError(
            f"{out} exists. Give the name of a new file; nothing is written over an old one."
        )
    if not (exists(out.parent) and out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise ExportError(
            f"{out.parent} is not a folder that can be written. Make it first, or give another place."
        )
    free = shutil.disk_usage(out.parent).free
    if free < nbytes:
        raise ExportError(
            f"{out.parent} has {free / 1e9:.2f} GB free, the statistics need {nbytes / 1e9:.2f} GB. Free some, or give "
            "another place."
        )


def write(out: str | Path, facts: StatisticsFacts, tensors: Mapping[str, Tensor]) -> None:
    """Write statistics as float32, one tensor at a time, and make the file appear whole.

    Args:
        out: the file to make; it must not exist.
        facts: what it says of itself.
        tensors: by the model's tensor names, of any layout in memory.

    Raises:
        ExportError: when it exists or cannot be written; nothing is left then.
    """
    out = Path(out)
    check_target(out, sum(4 * value.numel() for value in tensors.values()))
    stored = [(name, torch.float32, tuple(value.shape)) for name, value in tensors.items()]
    draft = out.with_name(f".{out.name}.{os.getpid()}.draft")
    try:
        with draft.open("xb") as file:
            file.write(written_header(stored, {"format": "pt", KEY: json.dumps(facts._asdict())}))
            for value in tensors.values():
                file.write(
                    value.detach()
                    .float()
                    .cpu()
                    .contiguous()
                    .view(-1)
                    .view(torch.uint8)
                    .numpy()
                    .data
                )
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, out)  # unlike a rename it refuses a file that has been made meanwhile
    except OSError as error:
        raise ExportError(
            f"{out} could not be written: {error.strerror or error}. Nothing was left behind."
        ) from None
    finally:
        draft.unlink(missing_ok=True)
