"""Standard errors of differences between compositions, example by example.

Both were measured on the same examples, and one that is hard for the first is hard for the second.
So their difference is far surer than either loss.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from workbench.session.loss_on_axis import FULL

if TYPE_CHECKING:
    from evaluation.records.loss_cache import Entry
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session

SURE = 2.0
"""Standard errors by which two scores must differ to be surely different."""


def paired_errors(
    session: Session,
    models: Models,
    one: Recipe,
    other: Recipe,
    names: Collection[str] | None = None,
) -> dict[str, float] | None:
    """Returns, by dataset, the standard error of the difference of two losses, in nats per token.

    It is None if a loss was not measured on all examples, or by an older version of this program,
    which kept no examples.

    Args:
        session: what it measured is read.
        models: its open models.
        one, other: the compositions.
        names: the datasets; all if not given.
    """
    errors = {}
    for name in models.data if names is None else names:
        data = models.data[name]
        first, second = (
            session.book.get(models.identity(recipe), data.keys[FULL]) for recipe in (one, other)
        )
        if first is None or second is None or not (first.sums and second.sums):
            return None
        errors[name] = difference(first, second)[1]
    return errors


def squared_errors(slope: Mapping[str, float], errors: Mapping[str, float]) -> dict[str, float]:
    """Returns what each dataset adds to the squared error of the difference of two scores.

    Args:
        slope: dataset -> derivative of the score with respect to its loss.
        errors: dataset -> standard error of the difference of its losses.
    """
    return {name: (slope.get(name, 0.0) * error) ** 2 for name, error in errors.items()}


def difference(one: Entry, other: Entry) -> tuple[float, float]:
    """Returns by how much a loss is above another one on the same examples, with its error."""
    import torch

    from evaluation.loss import ratio

    sums = torch.tensor(one.sums, dtype=torch.float64) - torch.tensor(
        other.sums, dtype=torch.float64
    )
    return ratio(sums, torch.tensor(one.counts, dtype=torch.float64))
