"""Stratified sampling: a fixed share of each domain, which mixing methods seldom beat.

Aioli (arXiv 2411.05735) finds that no method beats it reliably, so it stands in every comparison.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from influence.balance.resize import apportion, sizes_of


def stratified(
    sizes: Sequence[int],
    total: int | None = None,
    shares: Literal["equal", "proportional"] = "equal",
) -> list[int]:
    """Returns how many examples of each domain to train on.

    >>> stratified([700, 200, 100], 30), stratified([700, 200, 100], 30, "proportional")
    ([10, 10, 10], [21, 6, 3])

    Args:
        sizes: [n] examples of each domain.
        total: how many examples to train on; as many as there are if None.
        shares: "equal" gives each domain as much as any other, so a small one is repeated and a
            large one cut; "proportional" keeps the shares that the domains have.

    Raises:
        InfluenceError: no domain, a size below 1, or a total below 0.
    """
    given = sizes_of(sizes)
    weights = np.ones_like(given) if shares == "equal" else given
    return apportion(weights, int(given.sum()) if total is None else total)
