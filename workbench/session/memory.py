"""Where the weights of an open session are: in memory as far as half of what is free goes, else in their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from plumbing import units

if TYPE_CHECKING:
    from merging.inputs.checkpoint import Checkpoint
    from merging.inputs.vector import Vector


def load_into_memory(
    base: Checkpoint, vectors: Mapping[str, Vector]
) -> tuple[Mapping[str, Any], str]:
    """Read the base into memory, which every composition reads, then the vectors in their order while there is room.

    Returns:
        the base's weights, and in words what is where. The vectors are changed in place; their values stay the same.
    """
    from merging import DistributionVector, LoraVector, in_memory
    from merging.inputs.saved_vector import SavedVector

    free = psutil.virtual_memory().available
    room = free / 2
    weights: Mapping[str, Any] = base
    held, left = 0, []
    if base.nbytes < room:
        weights = in_memory(base)
        held = base.nbytes
    for name, vector in vectors.items():
        taken = stored_bytes(vector)
        if isinstance(vector, DistributionVector):
            vector.base = weights
        if weights is base or held + taken >= room:
            left.append(name)
            continue
        held += taken
        if isinstance(vector, LoraVector | SavedVector):
            vector.hold_in_memory()
        elif isinstance(vector, DistributionVector):
            vector.tuned = in_memory(vector.tuned)
    return weights, _in_words(
        held, left, base.nbytes + sum(map(stored_bytes, vectors.values())), free
    )


def _in_words(held: int, left: list[str], whole: int, free: int) -> str:
    if not left:
        return f"held in memory, {units.size(held)}"
    why = f"for {units.size(whole)} of weights do not fit in half of {units.size(free)} free memory"
    if not held:
        return f"read from files, {why}"
    return f"held in memory, {units.size(held)}, but for {', '.join(left)}, read from files, {why}"


def stored_bytes(vector: Vector) -> int:
    """Bytes of the files of a vector."""
    folder = vector.path
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) if folder else 0
