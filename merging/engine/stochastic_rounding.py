"""Stochastic rounding: to one of the two neighbours, to the nearer one more often, so that the expectation is exact.

Rounding to nearest takes a delta that is smaller than half a step of the output dtype away altogether. Rounded this
way it stays in the mean: an element that wants to be a tenth of a step from the base moves a whole step in one case
of ten. The price is noise: up to √2 times the error of rounding to nearest where the deltas are large.
Source: Croci et al. 2022, Stochastic rounding, https://doi.org/10.1098/rsos.211631, definition 1.
"""

import hashlib

import torch
from torch import Tensor

CHUNK = 2**18
"""Draws are made in chunks of this many elements, counted from the tensor's first: those of an element are the same
whichever block of the tensor is rounded."""

_PATTERNS = {2: torch.int16, 4: torch.int32}


def stochastic(
    values: Tensor, dtype: torch.dtype, *, seed: int, name: str, start: int = 0
) -> Tensor:
    """The values in a narrower dtype, each rounded up with the probability that makes its expectation exact.

    What the dtype holds stays as it is, −0, infinities and NaN too. What rounding to nearest takes to infinity goes
    there, and nothing else does: values between the greatest number and that become the greatest number.

    Args:
        values: 1-D, float32 or float64.
        dtype: bfloat16, float16 or float32.
        seed: the recipe's.
        name: the tensor's; with the seed it decides the draws.
        start: the position of the first value in the flattened tensor.

    Returns:
        the values in `dtype`, 1-D.

    Raises:
        TypeError: for dtypes that are not these.

    >>> stochastic(torch.full((100_000,), 1 + 2**-9), torch.bfloat16, seed=0, name="w").double().mean()
    tensor(1.0020, dtype=torch.float64)
    """
    if (
        values.dtype not in (torch.float32, torch.float64)
        or not dtype.is_floating_point
        or dtype.itemsize not in _PATTERNS
    ):
        raise TypeError(
            f"stochastic rounding of {values.dtype} to {dtype}: expected float32 or float64 to 16 or 32 bits"
        )
    nearest = values.to(dtype)
    exact, size = values.abs(), nearest.abs()
    back = size.to(values.dtype)
    # The bits of a positive float, read as a whole number, count the floats from 0: a neighbour is one further.
    pattern = size.view(_PATTERNS[dtype.itemsize])
    other = (pattern + (exact > back).to(pattern.dtype) - (exact < back).to(pattern.dtype)).view(
        dtype
    )
    # Both differences are exact. Next to infinity and NaN the quotient is 0 or NaN, and nothing is below either.
    chance = (exact - back).abs_().div_((other.to(values.dtype) - back).abs_())
    return torch.where(
        _draws(values, seed, name, start) < chance, torch.copysign(other, nearest), nearest
    )


def _draws(like: Tensor, seed: int, name: str, start: int) -> Tensor:
    """One number from [0, 1) for each value: a generator of its own for each chunk, seeded by its number."""
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
