"""Task: all that decides one tensor of the merged model, as a value."""

import hashlib
import math
from typing import Any, Literal, NamedTuple

import torch

from merging.inputs.statistics import Statistics
from merging.methods import _chunks
from merging.methods._chunks import row_length
from merging.methods._contract import Method


class Task(NamedTuple):
    """All that decides one tensor of the merged model: equal tasks give equal bits."""

    name: str
    shape: tuple[int, ...]
    out_dtype: torch.dtype
    method: Method
    vectors: tuple[str, ...] = ()
    """The vectors that take part, in the recipe's order; if empty, the base's tensor is copied."""
    omegas: tuple[float, ...] = ()
    """One ω for each of these vectors."""
    arguments: tuple[tuple[str, Any], ...] = ()
    """The method's parameters, sorted by name."""
    space: Literal["deltas", "weights"] = "deltas"
    """What is combined: deltas, to which the base is added, or fine-tuned weights."""
    depth: float | None = None
    """i/(L−1) for layer i of L, 0 to 1; None outside the layers."""
    seed: int = 0
    """The recipe's seed."""
    statistics: tuple[Statistics, ...] = ()
    """The statistics of each vector, if the method needs them."""
    names: tuple[str, ...] = ()
    """All names of a tensor that the base stores under several, in its order; () for all others.

    The first name decides the values; see merging.engine.shared_tensors.
    """
    stochastic: bool = False
    """Whether to round to the output dtype stochastically; see stochastic_rounding."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def whole(self) -> bool:
        """Whether the method needs the whole tensor at once."""
        method = self.method
        if not self.vectors or method.scope == "element":
            return False
        in_blocks = method.in_blocks
        return in_blocks is None or not in_blocks(self.shape, self.depth, dict(self.arguments))

    @property
    def unit(self) -> int:
        """The elements of which a block has a multiple: those of a row or a chunk, or 1."""
        if not self.vectors or self.whole:
            return 1
        rows = max(1, row_length(self.shape)) if self.method.by_rows else 1
        return _chunks.CHUNK if self.method.by_chunks else rows

    @property
    def repeats(self) -> bool:
        """Whether this is a further name of a tensor that has another name before it."""
        return bool(self.names) and self.name != self.names[0]

    @property
    def computed(self) -> "Task":
        """The task whose values this tensor has: masks and rounding depend on a tensor's name."""
        return self._replace(name=self.names[0]) if self.repeats else self


def seed_of(seed: int, tensor: str, vector: str) -> int:
    """Returns the seed of a random mask: the first 63 bits of SHA-256 over seed and both names.

    So other tensors, other sliders, their order and the number of threads cannot change a mask.
    """
    # No name may hold a zero byte, so two different triples never give the same text.
    text = "\0".join((str(seed), tensor, vector))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
