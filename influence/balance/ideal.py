"""IDEAL's step from influences of domains to new sizes of domains (arXiv 2505.12762).

    β = −m·α / max|α|         |D_j| ← int(|D_j|·(1 + β_j))

α_j is the derivative of the loss on a reference set by the share β_j that is added of domain j; see
influence/balance/domain_influence.py. The domain with the strongest influence changes by m.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from influence.balance.resize import apportion, sizes_of
from influence.errors import InfluenceError

STEP = 0.15
"""m: the largest change of a domain's size in one round, as a share of it (the paper's value)."""


class IdealStep(NamedTuple):
    """What one round of IDEAL proposes."""

    beta: tuple[float, ...]
    """[n] share that is added to each domain; below 0 it is taken away."""
    sizes: tuple[int, ...]
    """[n] new numbers of examples, 1 or more."""
    predicted_change: float
    """Σ α_j β_j: the change of the reference loss in nats, if it is linear in β."""


def ideal_step(
    sizes: Sequence[int],
    alpha: ArrayLike,
    m: float = STEP,
    *,
    keep_total: bool = False,
    centre: bool = False,
) -> IdealStep:
    """Proposes new sizes of domains from their influences.

    Worked example: sizes (100, 200, 50) and α (−0.2, 0.1, 0.05) give β = (0.15, −0.075, −0.0375)
    and sizes (115, 185, 48).

    Args:
        sizes: [n] examples of each domain.
        alpha: [n] influence of each domain, negative where more of it lowers the reference loss.
        m: the largest change, above 0 and below 1.
        keep_total: scale the new sizes so that their sum is that of the old ones.
        centre: replace α_j by α_j − (|D_j|/N)·Σα. At an optimum Σα is 0, because more of every
            domain alike changes nothing. Elsewhere, this is the influence with each domain's
            gradient taken relative to the gradient of all training data.

    Raises:
        InfluenceError: sizes and influences of different length, a size below 1, an influence that
            is no finite number, or an m outside 0 to 1.
    """
    old, influence = sizes_of(sizes), np.asarray(alpha, np.float64)
    if influence.shape != old.shape or not np.isfinite(influence).all():
        raise InfluenceError(
            f"the influences are {influence.tolist()} for {len(old)} domains; expected one finite "
            "number for each domain. Compute them with domain_influence."
        )
    if not 0 < m < 1:
        raise InfluenceError(f"m is {m}; expected a number between 0 and 1, such as {STEP}.")
    step = influence - old / old.sum() * influence.sum() if centre else influence
    largest = np.abs(step).max()
    # Divided first: m times the smallest numbers of float64 would be 0.
    beta = -m * (step / largest) if largest else np.zeros_like(step)
    # Without the rounding, int(100·1.15) is 114.
    new = (old * (1 + beta)).round(9)
    counts = apportion(new, int(old.sum())) if keep_total else new.astype(int).tolist()
    return IdealStep(
        tuple(beta.tolist()),
        tuple(max(1, count) for count in counts),
        float(influence @ beta),
    )
