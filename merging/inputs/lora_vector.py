"""A PEFT LoRA adapter as a distribution vector: ΔW = s·B·A, computed block by block as it is read.

s is alpha/r, or alpha/√r with rsLoRA (Hu et al. 2021, arXiv 2106.09685; Kalajdzievski 2023, arXiv
2312.03732). The product is not held whole in memory, unless that is asked for.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from merging.adapter_keys import Target
from merging.dtypes import working_dtype
from merging.errors import MismatchError
from merging.inputs.checkpoint import Weights, dtype_of, in_memory, read_block, shape_of
from merging.inputs.digest import combined
from merging.inputs.lora_config import base_model_of, read_adapter, resolve_targets
from merging.inputs.vector import Vector

CHUNK, ROWS = 2**18, 128
"""A chunk of a product has the rows of so many elements, but at least so many rows.

A chunk of few rows costs more, because the right factor is read anew for each: 2048×8192 of rank
256 took 1.5 times as long with 32 rows as with 128.
"""
_PRODUCTS = 8
"""Products that an adapter keeps: as many as threads that read it, each another tensor."""
_BEGUN = 16
"""Chunks that a product keeps for later readers: two for each of those threads."""


class Factors(NamedTuple):
    """The factors of one delta, in the orientation of the base's tensor.

    ΔW = scale · left @ right. Both factors are float32 (float64 if the base's tensor is).
    """

    left: Tensor
    """Shape (rows, rank)."""
    right: Tensor
    """Shape (rank, columns)."""
    scale: float


def stacked(terms: Sequence[tuple[float, Factors]], dtype: torch.dtype) -> Factors:
    """Returns Σ cᵢ sᵢ Lᵢ Rᵢ as one product of rank Σ rᵢ: [c₁s₁L₁, c₂s₂L₂, …] · [R₁; R₂; …].

    The left factors are multiplied in float64 and rounded once, to `dtype`.

    >>> factors = Factors(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]]), 0.5)
    >>> stacked([(2.0, factors), (-1.0, factors)], torch.float32)
    Factors(left=[[1.0, -0.5], [2.0, -1.0]], right=[[3.0, 4.0], [3.0, 4.0]], scale=1.0)
    """
    lefts = [(own.left.double() * (factor * own.scale)).to(dtype) for factor, own in terms]
    rights = [own.right.to(dtype) for _, own in terms]
    return Factors(torch.cat(lefts, dim=1), torch.cat(rights), 1.0)


class ChunkedProduct:
    """A product scale · left @ right that is multiplied out chunk by chunk as it is read.

    Chunks always begin at the same rows, so that an element has the same bits whichever span is
    read: a matrix product over other rows may round differently. Any thread may read.

    Args:
        factors: the product, which nothing changes any more.
    """

    def __init__(self, factors: Factors) -> None:
        self.factors = factors
        columns = factors.right.shape[1]
        self._rows = max(ROWS, CHUNK // columns)
        self._size = self._rows * columns
        # Spans and chunks begin at different elements. A chunk that was read in part is kept, with
        # the number of elements that nobody has read, because the rest is soon read as well.
        self._begun: dict[int, tuple[Tensor, int]] = {}
        self._lock = Lock()

    def read(self, start: int, out: Tensor) -> None:
        """Fills `out`, (n,), with elements of the flattened product, from element `start` on."""
        stop = start + out.numel()
        for number in range(start // self._size, -(-stop // self._size)):
            first = number * self._size
            low, high = max(start, first), min(stop, first + self._size)
            chunk = self._chunk(number, high - low)
            out[low - start : high - start] = chunk[low - first : high - first]

    def _chunk(self, number: int, reads: int) -> Tensor:
        """Returns a chunk, flattened, of which the caller reads so many elements."""
        with self._lock:
            chunk, unread = self._begun.pop(number, (None, 0))
        if chunk is None:
            left, right, scale = self.factors
            product = left[number * self._rows : (number + 1) * self._rows] @ right
            # PEFT's get_delta_weight multiplies by the scale last, too.
            chunk = (product if scale == 1.0 else product.mul_(scale)).view(-1)
            unread = chunk.numel()
        if unread > reads:
            with self._lock:
                self._begun[number] = chunk, unread - reads
                if len(self._begun) > _BEGUN:
                    del self._begun[next(iter(self._begun))]
        return chunk


class LoraVector(Vector):
    """The distribution vector of one LoRA adapter on one base.

    Args:
        path: the folder with adapter_config.json and adapter_model.safetensors.
        base: the weights that the adapter was trained on.
        name: its name in sliders, recipes and tables; the folder's name if not given.

    Attributes:
        targets: for each tensor of the base that the adapter changes, its factors; in the base's
            order.
        rank: the largest rank of its factors.
        base_model: what adapter_config.json names as the adapter's base: a path or a hub id;
            empty if nothing.

    Raises:
        CheckpointError: if the folder is not a LoRA adapter, or a kind that is not s·B·A.
        MismatchError: if its tensors do not fit the base, or a copy of a tensor of the base beside
            them is not the base's.
    """

    def __init__(self, path: str | Path, base: Weights, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or self.path.resolve().name
        self.base = base
        config, stored = read_adapter(self.path)
        self.base_model = base_model_of(config)
        # Only these keys change the delta; others, such as the base's path, must not change the
        # digest.
        self._scaling = str(
            {
                key: config.get(key)
                for key in ("r", "lora_alpha", "use_rslora", "alpha_pattern", "fan_in_fan_out")
            }
        )
        self._opened = stored  # `stored` itself may later be the same factors in memory
        self.stored: Weights = stored
        where = f"{self.name} ({self.path})"
        found = resolve_targets(where, config, stored, base)
        self.targets: Mapping[str, Target] = found.targets
        self.notes = found.notes
        for copy, own in found.copies.items():
            _check_copy(where, (stored, copy), (base, own))
        self.rank = max(shape_of(stored, target.a)[0] for target in self.targets.values())
        self._products: dict[str, Tensor] | None = None
        self._chunked: dict[str, ChunkedProduct] = {}
        self._lock = Lock()

    @cached_property
    def digest(self) -> str:
        """The digest of the factors and their scaling."""
        return combined(self._opened.digest, self._scaling)

    @cached_property
    def sampled_digest(self) -> str:
        """As earlier versions gave it; see Checkpoint.sampled_digest."""
        both = f"{self._opened.sampled_digest} {self._scaling}"
        return hashlib.sha256(both.encode()).hexdigest()

    def hold_in_memory(self) -> None:
        """Reads all factors and keeps them in RAM."""
        self.stored = in_memory(self.stored)

    def hold_products(self) -> None:
        """Keeps each delta in RAM from now on, once it was computed; takes `product_bytes`.

        A composition then reads it like the weights of a full checkpoint.
        """
        self._products = {}

    @property
    def product_bytes(self) -> int:
        """The memory that all deltas take."""
        return sum(
            math.prod(shape_of(self.base, name)) * working_dtype(dtype_of(self.base, name)).itemsize
            for name in self.targets
        )

    def __getitem__(self, name: str) -> Tensor:
        shape = shape_of(self.base, name)
        return self.block(name, 0, math.prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __contains__(self, name: object) -> bool:
        return name in self.targets  # the mapping's own would read the tensor to find out

    def __len__(self) -> int:
        return len(self.targets)

    def factors(self, name: str) -> Factors:
        """Returns the two factors of one delta, in the orientation of the base's tensor.

        Raises:
            KeyError: if the adapter does not change this tensor.
        """
        return self._product(name).factors

    def _product(self, name: str) -> ChunkedProduct:
        """Returns a delta to read; the last ones are kept, because tensors are read in blocks."""
        with self._lock:
            product = self._chunked.get(name)
        if product is None:
            target = self.targets[name]
            dtype = working_dtype(dtype_of(self.base, name))
            a, b = self.stored[target.a].to(dtype), self.stored[target.b].to(dtype)
            left, right = (a.T.contiguous(), b.T.contiguous()) if target.transposed else (b, a)
            product = ChunkedProduct(Factors(left, right, target.scale))
            with self._lock:
                self._chunked[name] = product
                if len(self._chunked) > _PRODUCTS:
                    del self._chunked[next(iter(self._chunked))]
        return product

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements `start` to `stop` of the flattened delta (B·A)·s."""
        if self._products is not None:
            return self._product_of(self._products, name)[start:stop].clone()
        return self._computed(name, start, stop)

    def read_delta(
        self, name: str, start: int, out: Tensor, scratch: Tensor, base: Tensor | None = None
    ) -> None:
        """Fills `out` with elements of Δ_i; see Vector.read_delta."""
        if self._products is None:
            self._product(name).read(start, out)
        else:
            out.copy_(self._product_of(self._products, name)[start : start + out.numel()])

    def _product_of(self, products: dict[str, Tensor], name: str) -> Tensor:
        """Returns a whole delta, flattened, from those that are held."""
        # Two threads may compute the same one at once: their bits are equal.
        if name not in products:
            products[name] = self._computed(name, 0, math.prod(shape_of(self.base, name)))
        return products[name]

    def _computed(self, name: str, start: int, stop: int) -> Tensor:
        """Computes elements `start` to `stop` of a flattened delta."""
        out = torch.empty(stop - start, dtype=working_dtype(dtype_of(self.base, name)))
        self._product(name).read(start, out)
        return out

    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of Θ + ΔW in the working dtype: shape (stop − start,)."""
        # copy=True, because a base in memory of this dtype would otherwise be changed in place.
        base = read_block(self.base, name, start, stop).to(
            working_dtype(dtype_of(self.base, name)), copy=True
        )
        return base.add_(self.block(name, start, stop)) if name in self.targets else base


def _check_copy(where: str, copy: tuple[Weights, str], own: tuple[Weights, str]) -> None:
    """Checks that a tensor beside an adapter's factors is the base's own, bit for bit.

    Two dtypes are compared in the narrower one: a model may be trained in another dtype than it is
    stored in.

    Args:
        where: the adapter, for messages.
        copy: the adapter's file, and the tensor's name in it.
        own: Θ, and its name of the tensor.

    Raises:
        MismatchError: if they differ.
    """
    shape, expected = shape_of(*copy), shape_of(*own)
    dtype, other = dtype_of(*copy), dtype_of(*own)
    merge = "merge it into its own base with peft's merge_and_unload and add the result in full."
    if shape != expected:
        raise MismatchError(
            f"{where}: {copy[1]} has shape {list(shape)}, the base's {own[1]!r} has "
            f"{list(expected)}: tokens were added before training, or it was trained on "
            f"another base. Choose that base, or {merge}"
        )
    narrow = dtype if dtype.itemsize <= other.itemsize else other
    size = math.prod(shape)
    for start in range(0, size, CHUNK):
        span = start, min(start + CHUNK, size)
        theirs, ours = (read_block(*tensor, *span).to(narrow) for tensor in (copy, own))
        if not torch.equal(theirs, ours):
            row = (start + int((theirs != ours).nonzero()[0])) // max(1, math.prod(shape[1:]))
            raise MismatchError(
                f"{where}: {copy[1]} is not the base's {own[1]!r} (they differ from row {row} on): "
                "it was trained on another base, or these weights were trained beside the adapter. "
                f"Choose that base, or {merge}"
            )
