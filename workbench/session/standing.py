"""Standing: the ω of a page's sliders and its merge method with parameters, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = float | int | bool | str
"""A value of a parameter of a merge method."""


@dataclass(frozen=True)
class Choice:
    """A merge method and its parameters.

    Attributes:
        method: name of the method.
        parameters: only those that differ from their defaults, so that equal choices are equal
            values and give equal recipes.
    """

    method: str = "task_arithmetic"
    parameters: Mapping[str, Value] = field(default_factory=dict)

    @classmethod
    def of(cls, method: str, values: Mapping[str, Value | None]) -> Choice:
        """Returns the choice that the fields of a form describe.

        Args:
            method: name of the method.
            values: parameter -> value; None is an empty field.

        Raises:
            RecipeError: the method or a parameter is unknown, a field is empty, or a value has
                another type or is out of range.
        """
        from merging.methods import _contract as methods

        arguments = methods.load(method).arguments(values)
        kept: dict[str, Value] = {}
        for param in methods.load(method).parameters:
            # No field of a form can hold a file; methods that need one run from recipe files only.
            if param.file:
                continue
            value = arguments[param.keyword]
            # A form has one field for all vectors, so the values per vector are all equal.
            value = value[0] if param.per_vector else value
            if value != param.default:
                kept[param.name] = value
        return cls(method, kept)


PLAIN = Choice()
"""DEM's equation 2, Θ + Σ ω_i Δ_i: the method that a page starts with. The base and a single expert
are composed by it."""


@dataclass(frozen=True)
class Standing:
    """Everything that decides a composition of the open models.

    Attributes:
        omegas: ω of each vector, in the order of the sliders. A vector at 0 takes no part, even if
            the method has no ω.
        choice: the merge method and its parameters.
    """

    omegas: tuple[float, ...]
    choice: Choice = PLAIN


def uniform(vectors: int) -> float:
    """Returns the ω that each of so many vectors has in the preset "uniform"."""
    # Two decimals, because the sliders move in steps of 0.01 and could not show 1/3.
    return round(1 / vectors, 2)


def live_methods(vectors: int) -> list[str]:
    """Returns the methods that can run live on this number of vectors; DEM's two come first.

    Methods that read statistics of each model are left out; see file_only_methods.
    """
    from merging.methods import _contract as methods
    from merging.recipe.formula import PLAIN as SUMS

    live = [
        name
        for name in methods.names()
        if not methods.load(name).statistics and methods.load(name).vectors[0] <= vectors
    ]
    return [*SUMS, *(name for name in live if name not in SUMS)]


def file_only_methods() -> list[str]:
    """Returns the methods that read statistics of each model.

    They run from recipe files only, because a recipe file names the statistics files.
    """
    from merging.methods import _contract as methods

    return [name for name in methods.names() if methods.load(name).statistics]
