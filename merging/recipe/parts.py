"""Source, Slice, SliceSource: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from merging.recipe.settings import Setting


@dataclass(frozen=True)
class SliceSource:
    """A run of layers of one model."""

    model: str
    """Its name in the recipe's models."""
    start: int
    """Its first layer, counted from 0."""
    stop: int
    """The layer after its last one."""
    parameters: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Layers of the output that are made of one run of layers of each source."""

    sources: tuple[SliceSource, ...]
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    base: str | None = None
    """The name of the source that is the base in this slice; None for the recipe's own base."""

    @property
    def length(self) -> int:
        """How many layers of the output it makes."""
        return self.sources[0].stop - self.sources[0].start

    def source(self, model: str) -> SliceSource | None:
        """The run of layers of a model; None where it takes no part."""
        return next((source for source in self.sources if source.model == model), None)


def facts(slices: tuple[Slice, ...]) -> list[Any]:
    """All that the slices say, for a digest."""
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
    """One fine-tuned checkpoint of a recipe."""

    path: str
    """Its folder, as written."""
    name: str
    """What sliders and tables call it; unique in the recipe."""
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    lora: str | None = None
    """An adapter on `path`, mergekit's `path+adapter`."""

    @property
    def location(self) -> str:
        """The folder that holds what was trained: the adapter's, if there is one."""
        return self.lora or self.path
