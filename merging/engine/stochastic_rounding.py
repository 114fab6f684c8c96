"""Rounds values at random to one of their two neighbours so that the expectation is exact.

Rounding to nearest loses a delta smaller than half a step of the output dtype completely.
Stochastic rounding keeps it in the mean: an element that should be a tenth of a step from the base
moves a whole step in one case of ten. The price is noise: for large deltas, up to √2 times the
error of rounding to nearest.
Source: Croci et al. 2022, Stochastic rounding, https://doi.org/10.1098/rsos.211631, definition 1.
"""

import hashlib

import torch
from torch import Tensor

from merging.engine.task import Task

CHUNK = 2**18
"""Elements for which random numbers are drawn together, counted from the tensor's first element.

So an element gets the same random number whichever block of the tensor is rounded.
"""

WIDE = (torch.float32, torch.float64)
"""The working dtypes; only they are rounded stochastically."""

_PATTERNS = {2: torch.int16, 4: torch.int32}
"""Bytes of a floating-point dtype -> the integer dtype that shows its bits."""


def round_stochastically(
    values: Tensor, dtype: torch.dtype, *, seed: int, name: str, start: int = 0
) -> Tensor:
    """Rounds values to a narrower dtype, up with the probability that makes the expectation exact.

    Values that the dtype can hold stay as they are, including −0, infinities and NaN. A value
    becomes infinite only if rounding to nearest makes it infinite; other values beyond the dtype's
    greatest number become that number.

    Args:
        values: (n,), float32 or float64.
        dtype: bfloat16, float16 or float32.
        seed: the recipe's seed.
        name: the tensor's name; with the seed it decides the random numbers.
        start: the position of the first value in the flattened tensor.

    Returns:
        the values in `dtype`, (n,).

    Raises:
        TypeError: for any other dtype.

    >>> values = torch.full((100_000,), 1 + 2**-9)
    >>> round_stochastically(values, torch.bfloat16, seed=0, name="w").double().mean()
    tensor(1.0020, dtype=torch.float64)
    """
    if values.dtype not in WIDE or not dtype.is_floating_point or dtype.itemsize not in _PATTERNS:
        raise TypeError(
            f"stochastic rounding of {values.dtype} to {dtype}: "
            "expected float32 or float64 to 16 or 32 bits"
        )
    nearest = values.to(dtype)
    exact, size = values.abs(), nearest.abs()
    back = size.to(values.dtype)
    # The bits of a positive float, read as an integer, count the floats from 0. So the neighbour of
    # a float has the next or the previous integer.
    pattern = size.view(_PATTERNS[dtype.itemsize])
    other = (pattern + (exact > back).to(pattern.dtype) - (exact < back).to(pattern.dtype)).view(
        dtype
    )
    # Both differences are exact. Next to infinity and NaN the quotient is 0 or NaN, and no random
    # number is below either, so the nearest value stays.
    chance = (exact - back).abs_().div_((other.to(values.dtype) - back).abs_())
    return torch.where(
        _draws(values, seed, name, start) < chance, torch.copysign(other, nearest), nearest
    )


def round_piece(task: Task, start: int, values: Tensor) -> Tensor:
    """Rounds the values of one piece to the task's output dtype.

    Args:
        task: the tensor; it says whether rounding is stochastic.
        start: the piece's first element in the flattened tensor, which decides the random draws.
        values: (n,), in the working dtype.
    """
    # A tensor that is only copied is rounded to nearest: it has no displacement to preserve.
    if (
        task.stochastic
        and task.vectors
        and values.dtype in WIDE
        and task.out_dtype.itemsize < values.dtype.itemsize
    ):
        return round_stochastically(
            values, task.out_dtype, seed=task.seed, name=task.name, start=start
        )
    return values.to(task.out_dtype)


def _draws(like: Tensor, seed: int, name: str, start: int) -> Tensor:
    """Draws a number from [0, 1) for each value; each chunk has its own generator and seed."""
    stop = start + like.numel()
    out = torch.empty_like(like)
    for number in range(start // CHUNK, -(-stop // CHUNK)):
        text = "\0".join(("stochastic rounding", str(seed), name, str(number)))
        source = torch.Generator().manual_seed(
            int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        )
        chunk = torch.rand(CHUNK, generator=source, dtype=like.dtype)
        low, high = max(start, number * CHUNK), min(stop, (number + 1) * CHUNK)
        out[low - start : high - start] = chunk[low - number * CHUNK : high - number * CHUNK]
    return out
