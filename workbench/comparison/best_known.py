"""The best known composition of the open models: what the page's preset "best" sets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from workbench.comparison.contenders import contenders, loss_sum
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

    It is the one that the table of Compare stars in the column of the mean loss, because both ask
    `loss_sum`. If nothing was measured on all examples yet, it is the recipe beside the base, or
    None if there is none either.

    Args:
        session: with open models.
    """
    models = session.models
    named = models.recipe(models.best) if models.best is not None else None
    listed = contenders(session, recipes=[named] if named else []).contenders
    measured = {
        contender.key: (loss_sum(session, contender.recipe), contender.recipe)
        for contender in listed
        if contender.folder is None
    }
    finite = [(loss, recipe) for loss, recipe in measured.values() if math.isfinite(loss)]
    if models.data and finite:
        loss, recipe = min(finite, key=lambda pair: pair[0])
        n = sum(data.prepared[FULL].datasets[0].n for data in models.data.values())
        about = (
            f"lowest mean validation loss so far: {loss / len(models.data):.3f} "
            f"(n = {n}), of {len(finite)} measured compositions"
        )
        return BestKnown(recipe, about)
    if named is None:
        return None
    return BestKnown(named, "the recipe beside the base; its losses are not measured here yet")
