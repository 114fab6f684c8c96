"""The parts of a recipe as plain values: a model, and slices of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from merging.recipe.settings import Setting


@dataclass(frozen=True)
class SliceSource:
    """A run of layers of one model.

    Attributes:
        model: the model's name in the recipe.
        start: its first layer, counted from 0.
        stop: the layer after its last one.
        parameters: settings of this model in this slice.
    """

    model: str
    start: int
    stop: int
    parameters: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """A run of output layers, made of one run of layers of each source.

    Attributes:
        sources: the runs of layers; all have the same length.
        parameters: settings of this slice; they overrule the recipe's.
        base: the name of the source that is the base in this slice; None for the recipe's base.
    """

    sources: tuple[SliceSource, ...]
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    base: str | None = None

    @property
    def length(self) -> int:
        """The number of output layers."""
        return self.sources[0].stop - self.sources[0].start

    def source(self, model: str) -> SliceSource | None:
        """Returns the run of layers of a model; None if it has none in this slice."""
        return next((source for source in self.sources if source.model == model), None)


def slices_as_lists(slices: tuple[Slice, ...]) -> list[Any]:
    """Returns all that the slices hold as lists that JSON can write, for a recipe's digest."""
    return [
        [
            part.base,
            dict(part.parameters),
            [
                (source.model, source.start, source.stop, dict(source.parameters))
                for source in part.sources
            ],
        ]
        for part in slices
    ]


@dataclass(frozen=True)
class ModelEntry:
    """One fine-tuned checkpoint of a recipe.

    Attributes:
        path: its folder or hub id, as the recipe has it.
        name: what sliders and tables call it; unique in the recipe.
        parameters: its settings, ω among them.
        lora: the folder of an adapter on `path`, mergekit's `path+adapter`; None for a full model.
    """

    path: str
    name: str
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    lora: str | None = None

    @property
    def location(self) -> str:
        """The folder of what was trained: the adapter if there is one, else the model."""
        return self.lora or self.path
