"""MetaGPT: task arithmetic whose ω are computed: each vector's share of the squared lengths."""

from jaxtyping import Float
from torch import Tensor

from merging.methods._parameters import Lambda
from merging.methods._values import Site
from merging.methods.task_arithmetic import combine as add

PAPER = "https://arxiv.org/abs/2406.11385"
FORMULA = "Θ + λ · Σ ωᵢ Δᵢ, ωᵢ = ‖Δᵢ‖² / Σⱼ ‖Δⱼ‖² over the whole model"
SPACE = "deltas"
SCOPE = "element"
WEIGHTED = False
LINEAR = True
ON_DEVICE = True


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """Adds the deltas with ω from `closed_form`: MetaGPT (arXiv 2406.11385).

    Vectors of lengths 1 and 2 get ω = 0.2 and 0.8.
    """
    return add(stack, omegas, site, lambda_=lambda_)


def closed_form(squares: tuple[float, ...]) -> tuple[float, ...]:
    """Returns ω from the squared lengths ‖Δᵢ‖² of the whole vectors.

    (1, 4) gives (0.2, 0.8). All ω are 0 if every vector is zero.
    """
    total = sum(squares)
    return tuple(square / total if total else 0.0 for square in squares)
