"""The compositions of the open models that were measured on all examples, with their losses.

The cache of losses is the only source: a composition that a slider, a search or a comparison
measured is here at once, and is there again after a restart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from workbench.errors import is_user_error
from workbench.session.loss_on_axis import FULL
from workbench.session.standing import PLAIN, Choice

if TYPE_CHECKING:
    from evaluation.records.loss_cache import LossCache
    from merging.recipe import Recipe
    from workbench.session.models import Models


@dataclass(frozen=True)
class MeasuredPoint:
    """A composition of the open models with its losses.

    Attributes:
        key: Models.identity of its recipe.
        omegas: ω of every open vector, by name.
        choice: the merge method and its parameters.
        losses: dataset -> its loss on all examples, in nats per token.
    """

    key: str
    omegas: Mapping[str, float]
    choice: Choice
    losses: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The mean loss over the datasets."""
        return math.fsum(self.losses.values()) / len(self.losses)

    def recipe(self, models: Models) -> Recipe | None:
        """Returns the recipe of this composition.

        It is None if sliders cannot show it: an ω is out of their range, or the composition was
        made with settings that a page has not, such as a filter of tensors.
        """
        try:
            recipe = models.recipe(self.omegas, self.choice)
        except Exception as error:
            if not is_user_error(error):
                raise
            return None
        return recipe if models.identity(recipe) == self.key else None


def measured_points(book: LossCache, models: Models) -> list[MeasuredPoint]:
    """Returns all measured compositions of the open models, the lowest mean loss first.

    Those with a loss that is not finite are left out.

    Args:
        book: the cache of losses.
        models: the open models; without data nothing is measured.
    """
    if not models.data:
        return []
    names = list(models.data)
    stored = book.compositions(
        models.base.identity, [data.keys[FULL] for data in models.data.values()]
    )
    points = []
    for each in stored:
        parts = _parts(each.parts)
        omegas = _omegas(parts["vectors"], models)
        if omegas is not None and all(map(math.isfinite, each.losses)):
            choice = Choice(parts["method"], parts["parameters"])
            losses = dict(zip(names, each.losses, strict=True))
            points.append(MeasuredPoint(each.key, omegas, choice, losses))
    return sorted(points, key=lambda point: point.mean)


def slopes_of(
    book: LossCache, models: Models, composition: str, keys: Mapping[str, str] | None = None
) -> dict[str, dict[str, float]] | None:
    """Returns the derivatives of a composition's losses: dataset -> coordinate -> ∂L/∂ω.

    It is None unless all of them were measured.

    Args:
        book: the cache of losses.
        models: the open models.
        composition: Models.identity of its recipe.
        keys: coordinate -> the name under which derivatives by it are stored; of the ω of whole
            vectors if not given.
    """
    keys = models.identities if keys is None else keys
    found: dict[str, dict[str, float]] = {}
    for dataset, data in models.data.items():
        known = book.slopes(composition, data.keys[FULL])
        if any(key not in known for key in keys.values()):
            return None
        found[dataset] = {name: known[key] for name, key in keys.items()}
    return found


def plain_points(points: Sequence[MeasuredPoint]) -> list[MeasuredPoint]:
    """Returns the points that are plain sums of vectors, whose losses a surrogate describes."""
    return [point for point in points if point.choice == PLAIN]


@lru_cache(maxsize=65_536)
def _parts(text: str) -> dict[str, Any]:
    # The same rows are read whenever sliders come to rest.
    return dict(json.loads(text))


def _omegas(vectors: Mapping[str, tuple[str, float]], models: Models) -> dict[str, float] | None:
    """Returns ω by name; None if the composition has a vector that is not open by that name."""
    # The name counts too: the random masks of DARE depend on it.
    if any(models.identities.get(name) != identity for name, (identity, _) in vectors.items()):
        return None
    return {name: vectors[name][1] if name in vectors else 0.0 for name in models.names}
