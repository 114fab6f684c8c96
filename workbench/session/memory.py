"""Decides which weights are held in memory: at most half of what is free; others stay in files.

A part of that half holds the products of LoRA adapters, so that a composition of one adapter, or by
a method that is no sum, does not multiply the factors each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from plumbing import units

if TYPE_CHECKING:
    from merging.inputs.checkpoint import Checkpoint
    from merging.inputs.vector import Vector


PRODUCTS = 1 / 10
"""Share of the memory for weights that products may take.

A product is some hundred times as large as its factors, and saves 0.1 s of a composition of 135
million parameters. A sum of several adapters does not read it: that is one product of all factors.
So a small model must not fill the memory with them.
"""


def load_into_memory(
    base: Checkpoint, vectors: Mapping[str, Vector]
) -> tuple[Mapping[str, Any], str]:
    """Reads the base, then the vectors in their order, into memory while there is room.

    The base comes first because every composition reads it. The vectors are changed in place; their
    values stay the same.

    Returns:
        The weights of the base (name -> tensor), and a sentence that says what is held where.
    """
    from merging import DistributionVector, LoraVector, in_memory
    from merging.inputs.saved_vector import SavedVector

    free = psutil.virtual_memory().available
    # The other half is for the module, which is loaded afterwards, and for copies of it (see
    # workbench.jobs.frozen).
    room = free / 2
    weights: Mapping[str, Any] = base
    held, in_files = 0, []
    if base.nbytes < room:
        weights = in_memory(base)
        held = base.nbytes
    for name, vector in vectors.items():
        nbytes = stored_bytes(vector)
        # Also for a vector that stays in its files: every delta reads the base too.
        if isinstance(vector, DistributionVector):
            vector.base = weights
        # Without the base in memory, every composition reads files anyway.
        if weights is base or held + nbytes >= room:
            in_files.append(name)
            continue
        held += nbytes
        if isinstance(vector, LoraVector | SavedVector):
            vector.hold_in_memory()
        elif isinstance(vector, DistributionVector):
            vector.tuned = in_memory(vector.tuned)
    # After all vectors: a product only saves time, and a vector in a file takes more of it.
    left = min(room - held, PRODUCTS * room)
    for name, vector in vectors.items():
        if not isinstance(vector, LoraVector) or name in in_files:
            continue
        if vector.product_bytes < left:
            left -= vector.product_bytes
            held += vector.product_bytes
            vector.hold_products()
    total = base.nbytes + sum(map(stored_bytes, vectors.values()))
    return weights, _describe(held, in_files, total, free)


def _describe(held: int, in_files: list[str], total: int, free: int) -> str:
    """Returns a sentence for the user; held, total and free are bytes."""
    if not in_files:
        return f"held in memory, {units.size(held)}"
    reason = (
        f"because {units.size(total)} of weights do not fit in half of "
        f"{units.size(free)} free memory"
    )
    if not held:
        return f"read from files, {reason}"
    return f"held in memory, {units.size(held)}; {', '.join(in_files)} read from files, {reason}"


def stored_bytes(vector: Vector) -> int:
    """Returns the size of a vector's files in bytes; 0 if it has no folder."""
    folder = vector.path
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) if folder else 0
