"""MetaGPT: task arithmetic with ω in closed form, each vector's share of the squared lengths."""

from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Site
from merging.methods._edits import Lambda
from merging.methods.task_arithmetic import combine as add

PAPER = "https://arxiv.org/abs/2406.11385"
FORMULA = "Θ + λ · Σ ωᵢ Δᵢ, ωᵢ = ‖Δᵢ‖² / Σⱼ ‖Δⱼ‖² over the whole model"
SPACE = "deltas"
SCOPE = "element"
WEIGHTED = False
ON_DEVICE = True


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """Vectors of lengths 1 and 2 get ω = 0.2 and 0.8."""
    return add(stack, omegas, site, lambda_=lambda_)


def closed_form(squares: tuple[float, ...]) -> tuple[float, ...]:
    """ω from the squared lengths of the whole vectors; all 0 where nothing was changed."""
    total = sum(squares)
    return tuple(square / total if total else 0.0 for square in squares)
