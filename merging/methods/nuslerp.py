"""NuSLERP: spherical interpolation between two models, or between their deltas from a base."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merging.methods import _chunks, _span
from merging.methods._sums import cancel
from merging.methods._survey import angles
from merging.methods._values import Site

PAPER = "https://dl.acm.org/doi/10.1145/325165.325242"
FORMULA = "slerp(Θ₁, Θ₂; t), or with a base Θ + slerp(Δ₁, Δ₂; t), where t = ω₂ / (ω₁ + ω₂)"
SPACE = "either"
SCOPE = "tensor"
VECTORS = (2, 2)

OPPOSITE = -0.998
"""Below this cosine a rounding of it to float32 leaves the coefficients fewer than four digits."""


def in_blocks(shape: Sequence[int], depth: float | None, arguments: Mapping[str, Any]) -> bool:
    """Whether a tensor is computed in blocks: a large one that is one vector."""
    return _chunks.in_blocks(shape, depth, arguments) and bool(arguments["nuslerp_flatten"])


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    nuslerp_flatten: Annotated[
        bool,
        "treat each tensor as one vector; if false, interpolate row by row or column by column",
    ] = True,
    nuslerp_row_wise: Annotated[
        bool, "with nuslerp_flatten false: interpolate along the first axis instead of the last"
    ] = False,
) -> Float[Tensor, "*shape"]:
    """Interpolates on the arc between two vectors: SLERP (Shoemake 1985), with t from the ω.

    Halfway between [2, 0] and [0, 2], at equal ω, is [√2, √2]: the coefficients apply to the
    vectors as they are, so lengths are interpolated with the direction.
    """
    if nuslerp_flatten:
        rows, shares = stack.view(2, 1, -1), factors(stack, omegas, site)[:, None]
    else:
        rows = (
            stack.view(2, stack.shape[1], -1).transpose(1, 2)
            if nuslerp_row_wise
            else stack.view(2, -1, stack.shape[-1])
        )
        lengths, cosines = _span.directions(rows)
        cosine = cosines[:, 0, 1]
        cosine = torch.where(_is_plain(lengths, cosine), _as_mergekit(rows), cosine)
        shares = _shares(cosine, omegas)
    _span.sum_in_float64(rows, shares)
    return stack[0]


def factors(
    stack: Float[Tensor, "2 *shape"],
    omegas: Float[Tensor, "2"],
    site: Site,
    *,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
) -> Float[Tensor, "2"]:
    """Returns the factors of both vectors, for a tensor that is one vector, or a block of it."""
    return _shares(angles(stack, site).cosines[:1, 1], omegas)[:, 0]


def _shares(cosine: Float[Tensor, "rows"], omegas: Float[Tensor, "2"]) -> Float[Tensor, "2 rows"]:
    """Returns the factors of both vectors for each of their rows."""
    first, second = (float(omega) for omega in omegas)
    # As in mergekit: ω that cancel have no shares, so both models count half.
    t = 0.5 if cancel((first, second)) else second / (first + second)
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    # Rows in one line, also opposite ones, have no arc that rounding does not choose, and their
    # sine would divide by about 0: interpolate in the line.
    line = sine <= _span.ROUNDING
    angle, sine = torch.atan2(sine, cosine), sine.masked_fill(line, 1.0)
    near = torch.where(line, 1 - t, torch.sin((1 - t) * angle) / sine)
    far = torch.where(line, t, torch.sin(t * angle) / sine)
    return torch.stack([near, far])


def _is_plain(
    lengths: Float[Tensor, "2 rows"], cosine: Float[Tensor, "rows"]
) -> Bool[Tensor, "rows"]:
    """Reports for which rows float32 can hold all products, and enough digits of the cosine."""
    # mergekit raises lengths below 1e-7 to it.
    inside = (lengths > 1e-7) & (lengths < 1e12)
    return inside.all(0) & (cosine > OPPOSITE)


def _as_mergekit(rows: Float[Tensor, "2 rows n"]) -> Float[Tensor, "rows"]:
    """Returns the cosines of rows as mergekit computes them, in the dtype of the rows.

    At a cosine of −0.99 rounding to float32 shows in the sixth digit of the result, and a recipe
    should give mergekit's numbers.
    """
    lengths = torch.linalg.vector_norm(rows, dim=-1).clamp(min=1e-7)
    found: Tensor = (rows[0] * rows[1]).sum(-1) / (lengths[0] * lengths[1])
    return found.double().clamp(-1, 1)
