"""The best known composition of the open models: what the page's preset "best" sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from workbench.search.measured import measured_points
from workbench.session.loss_on_axis import FULL

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.session.session import Session


class BestKnown(NamedTuple):
    """A composition, and what it is the best by."""

    recipe: Recipe
    about: str
    """A sentence for the user: the measure, the split, and among how many compositions."""


def best_known(session: Session) -> BestKnown | None:
    """Returns the composition with the lowest mean validation loss of all that were measured.

    It is the one that the table of Compare stars in the column of the mean loss, because both read
    `measured_points`. If nothing was measured on all examples yet, it is the recipe beside the
    base, or None if there is none either.

    Args:
        session: with open models.
    """
    models = session.models
    named = models.recipe(models.best) if models.best is not None else None
    points = measured_points(session.book, models)
    for point in points:
        if recipe := point.recipe(models):
            n = sum(data.prepared[FULL].datasets[0].n for data in models.data.values())
            about = (
                f"lowest mean validation loss so far: {point.mean:.3f} "
                f"(n = {n}), of {len(points)} measured compositions"
            )
            return BestKnown(recipe, about)
    if named is None:
        return None
    return BestKnown(named, "the recipe beside the base; its losses are not measured here yet")
