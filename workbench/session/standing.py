"""What a page stands at, as a value: the ω of its sliders, and the merge method with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

Value = float | int | bool | str


@dataclass(frozen=True)
class Choice:
    """A merge method and its parameters."""

    method: str = "task_arithmetic"
    parameters: Mapping[str, Value] = field(default_factory=dict)
    """Only those that are not at their defaults, so that equal choices are equal values and give equal recipes."""

    @classmethod
    def of(cls, method: str, values: Mapping[str, Value | None]) -> Choice:
        """A choice out of the fields of a form; None is an empty field.

        Raises:
            RecipeError: for an unknown method or parameter, an empty field, a value of another type or out of range.
        """
        from merging.methods import _contract as methods

        found = methods.load(method).arguments(values)
        kept: dict[str, Value] = {}
        for param in methods.load(method).parameters:
            if param.file:
                continue
            value = found[param.keyword]
            value = value[0] if param.per_vector else value
            if value != param.default:
                kept[param.name] = value
        return cls(method, kept)


PLAIN = Choice()
"""DEM's own sum, Θ + Σ ω_i Δ_i: what a page starts with, and what the base and an expert alone are made by."""


@dataclass(frozen=True)
class Standing:
    """All that decides a composition of what is open."""

    omegas: tuple[float, ...]
    """In the order of the sliders. A vector at 0 takes no part, also where the method has no ω."""
    choice: Choice = PLAIN


def offered(vectors: int) -> list[str]:
    """The methods that can run live on so many vectors: DEM's two first, then by name.

    Those that read statistics of each model are not among them: they run from recipe files, which name such files.
    """
    from merging.methods import _contract as methods
    from merging.recipe.formula import PLAIN as SUMS

    live = [
        name
        for name in methods.names()
        if not methods.load(name).statistics and methods.load(name).vectors[0] <= vectors
    ]
    return [*SUMS, *(name for name in live if name not in SUMS)]


def from_files_only() -> list[str]:
    """The methods that are not offered because they read statistics of each model."""
    from merging.methods import _contract as methods

    return [name for name in methods.names() if methods.load(name).statistics]
