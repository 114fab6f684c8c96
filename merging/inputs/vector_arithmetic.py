"""Sums of distribution vectors, such as a − b + c, as one vector: for analogies and for saving.

"A is to B as C is to D" (Ilharco et al. 2022, arXiv 2212.04089, section 5):
Δ_D ≈ Δ_C + (Δ_B − Δ_A).

And sums of adapters at one tensor as one matrix product, for methods that are sums.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from merging.dtypes import working_dtype
from merging.errors import MismatchError
from merging.inputs.checkpoint import dtype_of, read_block, shape_of
from merging.inputs.digest import combined
from merging.inputs.lora_vector import ChunkedProduct, LoraVector, stacked
from merging.inputs.vector import Vector


class Combined(Vector):
    """The vector Σ c_k Δ_k, computed block by block as it is read.

    If a vector does not change a tensor, its delta counts as zero there.

    Args:
        name: its name in sliders, recipes and tables.
        terms: coefficients and vectors, in the order of addition. The result has the base of the
            first vector.

    Raises:
        ValueError: if there are no terms, or a coefficient is not a finite number.
        MismatchError: if a vector changes a tensor that the first vector's base lacks or has in
            another shape.

    >>> Combined("d", [(1.0, c), (1.0, b), (-1.0, a)])["w"]  # Δc = [4], Δb = [2], Δa = [1]
    tensor([5.])
    """

    def __init__(self, name: str, terms: Sequence[tuple[float, Vector]]) -> None:
        if not terms or not all(math.isfinite(coefficient) for coefficient, _ in terms):
            raise ValueError(
                f"{name}: expected vectors with finite coefficients, "
                f"found {[term[0] for term in terms]}"
            )
        self.name = name
        self.terms = tuple((float(coefficient), vector) for coefficient, vector in terms)
        self.base = self.terms[0][1].base
        self.path = None
        first = self.terms[0][1].name
        for _, vector in self.terms:
            for tensor in vector:
                shape = shape_of(vector.base, tensor)
                if tensor not in self.base or shape != shape_of(self.base, tensor):
                    raise MismatchError(
                        f"{vector.name} changes {tensor!r}, which the base of {first} lacks or "
                        "has in another shape. Combine vectors of one base."
                    )
        # A dict keeps the order of the first vector that changes a tensor; a set would not.
        self._names = dict.fromkeys(tensor for _, vector in self.terms for tensor in vector)

    @cached_property
    def digest(self) -> str:
        """The digest of the coefficients and the digests of the vectors."""
        return combined(*(f"{coefficient!r} {vector.digest}" for coefficient, vector in self.terms))

    @cached_property
    def identity(self) -> str:
        """The key of caches: of the coefficients and the identities of the vectors."""
        terms = (f"{coefficient!r} {vector.identity}" for coefficient, vector in self.terms)
        return combined("identity", *terms)

    def gather_digest(self) -> None:
        """Hashes what is read of all vectors from now on; see Vector.gather_digest."""
        for _, vector in self.terms:
            vector.gather_digest()

    def __getitem__(self, name: str) -> Tensor:
        return self.block(name, 0, math.prod(shape_of(self.base, name))).view(
            shape_of(self.base, name)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # Mapping's own test would read the tensor

    def __len__(self) -> int:
        return len(self._names)

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of the sum in the working dtype.

        Every product and every sum is rounded by itself, in the order of the terms.
        """
        total = torch.zeros(stop - start, dtype=working_dtype(dtype_of(self.base, name)))
        for coefficient, vector in self.terms:
            if name in vector:
                total.add_(torch.mul(vector.block(name, start, stop), coefficient))
        return total

    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of Θ + Σ c_k Δ_k in the working dtype."""
        # copy=True, because a base in memory of this dtype would otherwise be changed in place.
        base = read_block(self.base, name, start, stop).to(
            working_dtype(dtype_of(self.base, name)), copy=True
        )
        return base.add_(self.block(name, start, stop)) if name in self._names else base


class WeightedAdapter(NamedTuple):
    """One adapter of a sum, with its factor."""

    factor: float
    adapter: LoraVector
    tensor: str
    """The adapter's name of the tensor; a base may store one tensor under several."""


class AdapterSum(Vector):
    """The vector Σ cᵢ Δᵢ of adapters at one tensor, computed as one product of stacked factors.

    Its weights are not those of one model but the same sum of the adapters' weights, Σ cᵢ (Θ + Δᵢ).

    Args:
        tensor: the only tensor that it has.
        terms: the adapters, all on one base; their order is that of the stacked factors.
    """

    def __init__(self, tensor: str, terms: Sequence[WeightedAdapter]) -> None:
        self.name = " + ".join(term.adapter.name for term in terms)
        self.base, self.path = terms[0].adapter.base, None
        self._tensor = tensor
        self._share = math.fsum(term.factor for term in terms)
        dtype = working_dtype(dtype_of(self.base, terms[0].tensor))
        self._product = ChunkedProduct(
            stacked([(term.factor, term.adapter.factors(term.tensor)) for term in terms], dtype)
        )

    def __getitem__(self, name: str) -> Tensor:
        shape = shape_of(self.base, name)
        return self.block(name, 0, math.prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        yield self._tensor

    def __contains__(self, name: object) -> bool:
        return name == self._tensor

    def __len__(self) -> int:
        return 1

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of the sum of the deltas; see Vector.block."""
        out = torch.empty(stop - start, dtype=self._product.factors.left.dtype)
        self._product.read(start, out)
        return out

    def read_delta(
        self, name: str, start: int, out: Tensor, scratch: Tensor, base: Tensor | None = None
    ) -> None:
        """Fills `out` with elements of the sum of the deltas; see Vector.read_delta."""
        self._product.read(start, out)

    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of Σ cᵢ (Θ + Δᵢ), computed as (Σ cᵢ) Θ + Σ cᵢ Δᵢ."""
        base = read_block(self.base, name, start, stop)
        share = torch.mul(base.to(self._product.factors.left.dtype), self._share)
        return share.add_(self.block(name, start, stop))
