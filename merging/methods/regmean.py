"""RegMean: for each linear layer, the weights whose outputs are nearest to those of all models.

The outputs are compared on the inputs that each model's own data give to the layer. Jin et al.
2023, Dataless Knowledge Fusion by Merging Weights of Language Models, Algorithm 1. Its α,
`off_diagonal` here, multiplies all of Gᵢ but the diagonal.

The default of 0.9 is that of the authors' demonstration (regmean_demo.ipynb of
github.com/bloomberg/dataless-model-merging at 92247ae), which calls it unnecessary for RoBERTa and
important for DeBERTa and T5. The settings of their experiments (src/configs/exps there) are 0.1 for
T5 and DeBERTa and for RoBERTa on named entities, and 1, no scaling, for RoBERTa and DistilBERT on
GLUE.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._sums import weighted_sum
from merging.methods._values import Range, Site
from merging.methods.fisher import refusal as refusal
from merging.methods.linear import combine as average

PAPER = "https://arxiv.org/abs/2212.09849"
FORMULA = (
    "(Σ ωᵢ Gᵢ)⁻¹ Σ ωᵢ Gᵢ Wᵢ for linear layers, Gᵢ = XᵢᵀXᵢ over the layer's inputs in model i; "
    "Σ ωᵢ Θᵢ / Σ ωᵢ for all other tensors"
)
SPACE = "weights"
SCOPE = "tensor"
STATISTICS = "gram"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    off_diagonal: Annotated[
        float,
        Range(0.0, 1.0),
        "a factor on all of Gᵢ but its diagonal; the authors used 0.1 for T5 and DeBERTa",
    ] = 0.9,
) -> Float[Tensor, "*shape"]:
    """Solves the least-squares problem of a linear layer: RegMean (arXiv 2212.09849, Algorithm 1).

    One input with second moments 3 and 1, weights 2 and 5 and equal ω give
    (3·2 + 1·5) / 4 = 2.75.

    The system is solved in float64 for the difference D from the average M:
    (Σ ωᵢ Gᵢ) D = Σ ωᵢ Gᵢ (Wᵢ − M). So only the difference is rounded, and directions in which no
    model has inputs keep the average. Tensors without statistics become the average.
    """
    measured = [statistic for statistic in site.statistics if statistic is not None]
    if len(measured) < len(stack):
        return average(stack, omegas, site)
    mean = weighted_sum(stack, omegas, keep=True).div_(omegas.sum())
    left = right = torch.zeros((), dtype=torch.float64)
    for values, omega, statistic in zip(stack, omegas, measured, strict=True):
        away = values.double() - mean
        gram = _scale_off_diagonal(statistic.values.double(), off_diagonal) * omega.double()
        left = left + gram
        right = right + gram @ (away if statistic.axis == 0 else away.T)
    # All files have the same axis at a tensor: recipe_statistics compares them.
    solution = solve(left, right)
    return (mean.double() + (solution if measured[0].axis == 0 else solution.T)).to(stack.dtype)


def _scale_off_diagonal(
    gram: Float[Tensor, "inputs inputs"], factor: float
) -> Float[Tensor, "inputs inputs"]:
    """Multiplies all entries of a Gram matrix but its diagonal by a factor."""
    return gram * factor + torch.diag(gram.diagonal() * (1 - factor))


def solve(
    left: Float[Tensor, "inputs inputs"], right: Float[Tensor, "inputs outputs"]
) -> Float[Tensor, "inputs outputs"]:
    """Returns the smallest solution x of left · x = right, in float64.

    `left` is positive semi-definite and known to float32 precision only. It is first scaled to a
    diagonal of ones, because inputs differ in size by orders of magnitude and the rounding of each
    entry is relative to its row and column. Eigenvalues no larger than that rounding carry no
    information, for example if a layer saw fewer tokens than it has inputs; along their
    eigenvectors the solution is 0. Without such eigenvalues a Cholesky factorisation is enough:
    eigenvectors take 17 times as long at 2048 inputs (2.8 s on one core).
    """
    diagonal = left.diagonal().clamp(min=0)
    scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0.0)
    unit = scale[:, None] * left * scale
    # An input that is always 0 would make the matrix singular; its row of the solution is 0.
    unit.diagonal().masked_fill_(scale == 0, 1.0)
    right = scale[:, None] * right
    rounding = len(left) * torch.finfo(torch.float32).eps
    # cholesky_ex returns a failure instead of raising it. It also succeeds on nearly singular
    # matrices, which only a tiny pivot betrays.
    factor, failed = torch.linalg.cholesky_ex(unit)
    if not failed and factor.diagonal().min() ** 2 > rounding:
        return scale[:, None] * torch.cholesky_solve(right, factor)
    values, vectors = torch.linalg.eigh(unit)
    inverse = torch.where(values > rounding, 1 / values, 0.0)
    solution: Tensor = vectors @ (inverse[:, None] * (vectors.T @ right))
    return scale[:, None] * solution
