"""A PEFT LoRA adapter as a distribution vector: ΔW = s·B·A, computed block by block as it is read.

s is alpha/r, or alpha/√r with rsLoRA (Hu et al. 2021, arXiv 2106.09685; Kalajdzievski 2023, arXiv
2312.03732). The product is not held whole in memory, unless that is asked for.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
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

# Elements per chunk of the product. Chunks always begin at the same rows, so that a delta has the
# same bits whichever block is read: a matrix product over other rows may round differently.
CHUNK = 2**18


class Factors(NamedTuple):
    """The factors of one delta, in the orientation of the base's tensor.

    ΔW = scale · left @ right. Both factors are float32 (float64 if the base's tensor is).
    """

    left: Tensor
    """Shape (rows, rank)."""
    right: Tensor
    """Shape (rank, columns)."""
    scale: float


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
        self._latest: tuple[str, Factors] | None = None
        self._chunk: tuple[str, int, Tensor] | None = None

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

        The last ones are kept, because a tensor is read block by block.

        Raises:
            KeyError: if the adapter does not change this tensor.
        """
        latest = self._latest  # read the attribute once: another thread may replace it
        if latest is None or latest[0] != name:
            target = self.targets[name]
            dtype = working_dtype(dtype_of(self.base, name))
            a, b = self.stored[target.a].to(dtype), self.stored[target.b].to(dtype)
            left, right = (a.T.contiguous(), b.T.contiguous()) if target.transposed else (b, a)
            latest = self._latest = (name, Factors(left, right, target.scale))
        return latest[1]

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements `start` to `stop` of the flattened delta (B·A)·s.

        The order of the two products is that of PEFT's get_delta_weight, so that the bits agree.
        """
        if self._products is not None:
            return self._product_of(self._products, name)[start:stop].clone()
        return self._computed(name, start, stop)

    def read_delta(
        self, name: str, start: int, out: Tensor, scratch: Tensor, base: Tensor | None = None
    ) -> None:
        """Fills `out` with elements of Δ_i; see Vector.read_delta."""
        if self._products is None:
            super().read_delta(name, start, out, scratch, base)
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
        factors = self.factors(name)
        columns = factors.right.shape[1]
        rows = max(1, CHUNK // columns)
        size = rows * columns
        out = torch.empty(stop - start, dtype=factors.left.dtype)
        for number in range(start // size, -(-stop // size)):
            chunk = self._product(name, factors, number, rows)
            low, high = max(start, number * size), min(stop, (number + 1) * size)
            out[low - start : high - start] = chunk[low - number * size : high - number * size]
        return out

    def _product(self, name: str, factors: Factors, number: int, rows: int) -> Tensor:
        """Returns chunk `number` of the flattened delta; each chunk has `rows` rows."""
        # Blocks and chunks begin at different elements. The chunk in which a block ends is kept,
        # because the next block begins in it.
        latest = self._chunk
        if latest is None or latest[:2] != (name, number):
            product = factors.left[number * rows : (number + 1) * rows] @ factors.right
            latest = self._chunk = (name, number, product.mul_(factors.scale).reshape(-1))
        return latest[2]

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
