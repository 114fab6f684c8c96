"""A loss between the two ends of its dataset's axis, and what is known of such losses.

A measurement takes a few examples of each dataset, or all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from evaluation.records.loss_cache import Entry, LossCache

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.throughput import Measuring

QUICK, FULL = "quick", "full"


@dataclass(frozen=True)
class LossOnAxis:
    """The loss of one dataset, between the two ends of its axis; all on the same examples.

    Attributes:
        loss: loss of the composition.
        base: loss of the base, one end of the axis; None while an end is not measured.
        expert: loss of the vector named like the dataset at ω = 1, the other end; None too if no
            vector has this name.
        quick: whether only the first few examples were measured, of a larger dataset.
    """

    loss: Entry
    base: Entry | None
    expert: Entry | None
    quick: bool

    @property
    def exact(self) -> bool:
        """Whether the loss and the ends are of all examples."""
        return not self.quick and self.base is not None


class Wave(NamedTuple):
    """A composition, and the datasets that are measured while it stands."""

    recipe: Recipe
    datasets: list[str]


class Update(NamedTuple):
    """What a page shows of a measurement.

    Attributes:
        points: the losses so far, by dataset.
        measuring: how far it is; None for quick losses, and if nothing is left to be measured.
    """

    points: dict[str, LossOnAxis]
    measuring: Measuring | None


class KnownLosses:
    """The losses of the open models that were measured before.

    Args:
        book: the cache of losses.
    """

    def __init__(self, book: LossCache):
        self._book = book

    def loss(self, models: Models, recipe: Recipe, dataset: str, size: str) -> Entry | None:
        """Returns a loss of a recipe if it was measured before, else None.

        A loss of a few examples is known from one of all examples.
        """
        data, identity = models.data[dataset], models.identity(recipe)
        loss = self._book.get(identity, data.keys[size])
        if loss is None and size == QUICK:
            whole = self._book.get(identity, data.keys[FULL])
            # A cache of an older version has no examples.
            if whole and whole.sums:
                from evaluation.loss import Loss, part_of

                loss = Entry(*part_of(Loss(*whole), data.prepared[QUICK].datasets[0]))
        # The same examples may be open under another name.
        return loss and loss._replace(dataset=dataset)

    def ends(self, models: Models, dataset: str, size: str) -> tuple[Entry, Entry | None] | None:
        """Returns the ends of a dataset's axis if they were measured before, else None."""
        expert = expert_of(models, dataset)
        base = self.loss(models, models.recipe({}), dataset, size)
        best = self.loss(models, expert, dataset, size) if expert else None
        return None if base is None or (expert and best is None) else (base, best)

    def without(self, models: Models, wave: Wave, size: str) -> Wave:
        """Returns a wave without the datasets whose losses are known."""
        recipe, names = wave
        return Wave(recipe, [name for name in names if not self.loss(models, recipe, name, size)])

    def points(self, models: Models, recipe: Recipe) -> dict[str, LossOnAxis]:
        """Returns what is known of the losses of a recipe, by dataset.

        They are those of all examples where these and the ends of the axis are known; else of a
        few; else without the ends.
        """
        found = {}
        for name in models.data:
            sizes = [(size, self.loss(models, recipe, name, size)) for size in (FULL, QUICK)]
            known = [(size, loss) for size, loss in sizes if loss]
            axes = [(*each, self.ends(models, name, each[0])) for each in known]
            for size, loss, ends in sorted(axes, key=lambda axis: axis[2] is None)[:1]:
                base, expert = ends or (None, None)
                found[name] = LossOnAxis(loss, base, expert, is_quick(models, name, size))
        return found


def waves(models: Models, recipe: Recipe) -> list[Wave]:
    """Returns all that is measured to show the losses of a recipe on their axes, each recipe once.

    They are the recipe, the base, and each expert on its own dataset.
    """
    found = {models.identity(recipe): Wave(recipe, list(models.data))}
    ends = [Wave(models.recipe({}), list(models.data))]
    ends += [Wave(expert, [name]) for name in models.data if (expert := expert_of(models, name))]
    for wave in ends:
        # The recipe may be an end itself.
        found.setdefault(models.identity(wave.recipe), wave)
    return list(found.values())


def expert_of(models: Models, dataset: str) -> Recipe | None:
    """Returns the recipe of the vector named like the dataset at ω = 1, or None."""
    return models.recipe({dataset: 1.0}) if dataset in models.vectors else None


def is_quick(models: Models, dataset: str, size: str) -> bool:
    """Returns whether a size leaves out examples; of a small dataset QUICK has all."""
    keys = models.data[dataset].keys
    return keys[size] != keys[FULL]
