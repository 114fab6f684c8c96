"""RegMean: for each linear layer the weights whose outputs on all models' inputs are nearest to those of the models.

Jin et al. 2023, Dataless Knowledge Fusion by Merging Weights of Language Models, Algorithm 1. Its α, `off_diagonal` here,
multiplies all of Gᵢ but the diagonal. The default of 0.9 is that of the authors' demonstration (regmean_demo.ipynb of
github.com/bloomberg/dataless-model-merging at 92247ae), which holds it needless for RoBERTa and important for DeBERTa and T5.
Their experiments' settings there (src/configs/exps) are 0.1 for T5 and DeBERTa and for RoBERTa on named entities, and 1, no
scaling, for RoBERTa and DistilBERT on GLUE.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Range, Site
from merging.methods._edits import weighted_sum
from merging.methods.fisher import refusal as refusal
from merging.methods.linear import combine as average

PAPER = "https://arxiv.org/abs/2212.09849"
FORMULA = "(Σ ωᵢ Gᵢ)⁻¹ Σ ωᵢ Gᵢ Wᵢ for linear layers, Gᵢ = XᵢᵀXᵢ of their inputs; Σ ωᵢ Θᵢ / Σ ωᵢ for all else"
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
        "a factor on all of Gᵢ but its diagonal; its authors used 0.1 for T5 and DeBERTa",
    ] = 0.9,
) -> Float[Tensor, "*shape"]:
    """Solved in float64 for the difference D from the average M: (Σ ωᵢ Gᵢ) D = Σ ωᵢ Gᵢ (Wᵢ − M).

    So the rounding is that of a difference, and directions in which no model has inputs keep the average. One input of
    second moments 3 and 1, weights 2 and 5, equal ω: (3·2 + 1·5) / 4 = 2.75.
    """
    known = [statistic for statistic in site.statistics if statistic is not None]
    if len(known) < len(stack):
        return average(stack, omegas, site)
    mean = weighted_sum(stack, omegas, keep=True).div_(omegas.sum())
    left = right = torch.zeros((), dtype=torch.float64)
    for values, omega, statistic in zip(stack, omegas, known, strict=True):
        away = values.double() - mean
        gram = _shrunk(statistic.values.double(), off_diagonal) * omega.double()
        left = left + gram
        right = right + gram @ (away if statistic.axis == 0 else away.T)
    solution = solve(left, right)
    return (mean.double() + (solution if known[0].axis == 0 else solution.T)).to(stack.dtype)


def _shrunk(gram: Float[Tensor, "inputs inputs"], factor: float) -> Float[Tensor, "inputs inputs"]:
    """A Gram matrix with everything beside its diagonal multiplied by a factor."""
    return gram * factor + torch.diag(gram.diagonal() * (1 - factor))


def solve(
    left: Float[Tensor, "inputs inputs"], right: Float[Tensor, "inputs outputs"]
) -> Float[Tensor, "inputs outputs"]:
    """The least solution of a positive semi-definite system in float64, whose matrix is known to float32 precision.

    The matrix is scaled to a diagonal of ones first: inputs differ in size by orders of magnitude, and the rounding of
    each entry is relative to its row and column. Eigenvalues that are then no larger than that rounding say nothing, as
    where a layer saw fewer tokens than it has inputs; along them the solution is 0. Cholesky's factors are used where
    there are none: eigenvectors take 17 times as long at 2048 inputs (2.8 s on one core).
    """
    diagonal = left.diagonal().clamp(min=0)
    scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0.0)
    unit = scale[:, None] * left * scale
    unit.diagonal().masked_fill_(
        scale == 0, 1.0
    )  # an input that is always 0: its row of the solution is 0
    right = scale[:, None] * right
    rounding = len(left) * torch.finfo(torch.float32).eps
    factor, failed = torch.linalg.cholesky_ex(unit)
    if not failed and factor.diagonal().min() ** 2 > rounding:
        return scale[:, None] * torch.cholesky_solve(right, factor)
    values, vectors = torch.linalg.eigh(unit)
    inverse = torch.where(values > rounding, 1 / values, 0.0)
    solution: Tensor = vectors @ (inverse[:, None] * (vectors.T @ right))
    return scale[:, None] * solution
