"""The influence of whole distribution vectors on reference losses, without a Hessian.

    α_rj = ⟨∇L_r, Δ_j⟩        L_r: loss on reference set r, at the weights that the module holds

A negative α_j means that more of domain j lowers the loss on the reference set, as in IDEAL
(arXiv 2505.12762), whose α = −∇L_refᵀ H⁻¹ ∇L_j it takes the place of: an expert that is trained to
its optimum is displaced by Δ_j ≈ −H⁻¹ ∇L_j, so the inverse Hessian is in the vector already. The
two have the same sign and different units, so they are compared by sign and order. Here the unit is
nats for a whole vector, ω_j + 1; in IDEAL it is nats for the dataset once more, β_j + 1.

Which weights: for a decision about data, those of a model that was trained on the mixture; for a
decision about ω, those of the merged model, where α_j is ∂L_r/∂ω_j exactly. On 60 ill-conditioned
logistic problems ⟨∇L, Δ⟩ correlated with the true effect of 15 % more of a domain by 0.98 at the
mixed model, and by 0.51 at the merged one.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from evaluation.loss import ratio
from influence.errors import InfluenceError
from influence.vectors.example_table import ExampleTable

HALVES = 100
"""Random splits into halves that the agreement is averaged over."""


class VectorInfluence(NamedTuple):
    """The influence of n vectors on r reference sets."""

    references: tuple[str, ...]
    vectors: tuple[str, ...]
    alphas: Tensor
    """(r, n) float64: ∂L_r/∂ω_j, in nats per supervised token; negative helps."""
    stderrs: Tensor
    """(r, n) float64: standard error of `alphas`, clustered by example; NaN for one example."""
    agreement: Tensor
    """(r,) float64: the correlation, over the vectors, of α from one random half of the examples
    with α from the other half, averaged over splits. Near 1, the order of the vectors does not
    depend on which examples were drawn. NaN for one vector, or fewer than 4 examples."""
    counts: tuple[int, ...]
    """The number of examples of each reference set."""


def vector_influence(
    tables: Mapping[str, ExampleTable],
    *,
    alike: Literal["examples", "tokens"] = "examples",
    seed: int = 0,
) -> VectorInfluence:
    """Averages the derivatives of single examples over reference sets.

    Args:
        tables: reference set -> its table, all at the same weights.
        alike: "examples" counts each example alike, as IDEAL and LESS do. "tokens" counts each
            supervised token alike, as evaluation.loss does: α is then the derivative of the loss
            that is shown elsewhere.
        seed: of the random halves.

    Raises:
        InfluenceError: there are no reference sets, or their tables are of different vectors.
    """
    vectors = {table.vectors for table in tables.values()}
    if len(vectors) != 1:
        raise InfluenceError(
            f"the reference sets {', '.join(tables) or '(none)'} have tables of {len(vectors)} "
            "lists of vectors; expected one. Compute all tables with the same vectors."
        )
    measured, agreement = [], []
    for table in tables.values():
        weights = table.tokens if alike == "tokens" else torch.ones_like(table.tokens)
        sums = table.slopes * weights[:, None]
        measured.append([ratio(column, weights) for column in sums.T])
        agreement.append(_agreement(sums, weights, seed))
    values = torch.tensor(measured, dtype=torch.float64)
    return VectorInfluence(
        tuple(tables),
        vectors.pop(),
        values[..., 0],
        values[..., 1],
        torch.tensor(agreement, dtype=torch.float64),
        tuple(len(table.losses) for table in tables.values()),
    )


def _agreement(sums: Tensor, weights: Tensor, seed: int) -> float:
    """Returns the mean correlation of α from random halves; see `VectorInfluence.agreement`.

    Args:
        sums: (examples, vectors), the derivatives times the weights.
        weights: (examples,).
        seed: of the halves.
    """
    count, vectors = sums.shape
    if vectors < 2 or count < 4:
        return math.nan
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(HALVES):
        order = torch.randperm(count, generator=generator)
        halves = order[: count // 2], order[count // 2 :]
        means = [sums[half].sum(0) / weights[half].sum() for half in halves]
        found.append(float(torch.corrcoef(torch.stack(means))[0, 1]))
    return sum(found) / HALVES
