"""What a page stands at, as a value: the ω of its sliders, and the merge method with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.models import Models

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
        from merging import method as methods

        found = methods.arguments(method, values)
        kept: dict[str, Value] = {}
        for param in methods.parameters(method):
            if param.file:
                continue
            value = found[methods.keyword(param)]
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


def standing_of(models: Models, recipe: Recipe) -> Standing | None:
    """Where a page's sliders and fields make the weights of a recipe; None where they cannot."""
    from workbench.errors import is_for_the_reader
    from workbench.spending import key

    given = recipe.omegas
    try:
        if all(isinstance(given.get(name, 0.0), int | float) for name in models.names):
            omegas = tuple(float(given.get(name, 0.0)) for name in models.names)
        else:  # a method without ω
            omegas = tuple(float(name in given) for name in models.names)
        made = Standing(omegas, Choice.of(recipe.method, dict(recipe.parameters)))
        return made if key(models.recipe(made.omegas, made.choice)) == key(recipe) else None
    except Exception as error:  # gradients and filters of ω, parameters per layer
        if not is_for_the_reader(error):
            raise
        return None


def offered(vectors: int) -> list[str]:
    """The methods that can run live on so many vectors: DEM's two first, then by name.

    Those that read statistics of each model are not among them: they run from recipe files, which name such files.
    """
    from merging import method as methods
    from merging.recipe.formula import PLAIN as SUMS

    live = [name for name in methods.names() if not methods.statistics(name) and methods.span(name)[0] <= vectors]
    return [*SUMS, *(name for name in live if name not in SUMS)]


def from_files_only() -> list[str]:
    """The methods that are not offered because they read statistics of each model."""
    from merging import method as methods

    return [name for name in methods.names() if methods.statistics(name)]
