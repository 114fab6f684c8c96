"""What a search may change: ω of vectors, or of their groups of layers, and a method's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import SessionError
from workbench.search.layer_groups import GroupBy, Rules, groups_of, in_order, rules_of
from workbench.session.standing import PLAIN, Choice

if TYPE_CHECKING:
    from evaluation.landscape.omega_gradient import Slope
    from merging.recipe import Recipe
    from workbench.session.models import Models

WHOLE = ""
"""The group of a vector that has one ω."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The coordinates of a search, and the compositions that their values stand for.

    Attributes:
        choice: the merge method, with the values of the parameters that stay.
        by_vector: vector -> group -> the coordinate that is its ω. A vector that is left out, as
            those of a method without ω, always takes part with ω 1.
        parameters: parameters of the method whose values are searched; each is a coordinate.
        by: what groups are made by; "" if each vector has one ω.
        groups: tensor -> its group; {} if each vector has one ω.
        order: the groups in the order in which they get ω of their own: the one in which the
            vectors are longest comes first.
    """

    choice: Choice
    by_vector: Mapping[str, Mapping[str, str]]
    parameters: tuple[str, ...] = ()
    by: GroupBy = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The coordinates."""
        omegas = (name for groups in self.by_vector.values() for name in groups.values())
        return (*omegas, *self.parameters)

    @property
    def is_sum(self) -> bool:
        """Whether all compositions are sums Θ + Σ ωᵢ Δᵢ, so that ω = 0 is the base."""
        return self.choice == PLAIN and not self.parameters

    def vector_of(self, coordinate: str) -> str | None:
        """Returns whose ω a coordinate is; None for a parameter."""
        return next(
            (vector for vector, own in self.by_vector.items() if coordinate in own.values()), None
        )

    def point_of(
        self, omegas: Mapping[str, float], parameters: Mapping[str, float]
    ) -> dict[str, float]:
        """Returns the point where whole vectors have some ω; those that are left out have 0.

        Args:
            omegas: vector -> ω.
            parameters: the values of the other coordinates.
        """
        point: dict[str, float] = {}
        for vector, own in self.by_vector.items():
            point |= dict.fromkeys(own.values(), omegas.get(vector, 0.0))
        return point | {name: parameters[name] for name in self.parameters}

    def omegas(self, point: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Returns vector -> group -> its ω at a point; the group is WHOLE if a vector has one ω."""
        return {vector: self._values(vector, point) for vector in self.by_vector}

    def recipe(self, models: Models, point: Mapping[str, float]) -> Recipe:
        """Returns the composition that a point stands for; ω that are left out are 0.

        Raises:
            SessionError, RecipeError: see Models.recipe.
        """
        values = {vector: self._values(vector, point) for vector in models.names}
        choice = self.choice
        if self.parameters:
            found = {name: float(point[name]) for name in self.parameters}
            choice = Choice(choice.method, {**choice.parameters, **found})
        plain = {vector: _one(own) for vector, own in values.items()}
        recipe = models.recipe(plain, choice)
        grouped = {vector: own for vector, own in values.items() if len(set(own.values())) > 1}
        if not grouped:
            return recipe
        return replace(
            recipe,
            models=tuple(
                replace(
                    source, parameters={**source.parameters, **_weight(grouped[name], self._rules)}
                )
                if (name := source.name) in grouped
                else source
                for source in recipe.models
            ),
        )

    def keys(self, models: Models) -> dict[str, str]:
        """Returns ω coordinate -> the name under which derivatives by it are stored."""
        return {
            name: _key(models.identities[vector], self.by, group)
            for vector, own in self.by_vector.items()
            for group, name in own.items()
        }

    def slopes(self, slope: Slope, models: Models) -> dict[str, float]:
        """Returns derivatives to store: by the ω of each whole vector, and by those of its groups.

        Args:
            slope: of one dataset, with its rows in the order of the open vectors.
            models: the open models.
        """
        found = dict(zip(models.identities.values(), slope.gradient.tolist(), strict=True))
        if self.by == WHOLE:
            return found
        for row, (vector, identity) in enumerate(models.identities.items()):
            for group in self.by_vector[vector]:
                columns = [
                    at for at, name in enumerate(slope.tensors) if self.groups[name] == group
                ]
                found[_key(identity, self.by, group)] = float(slope.values[row, columns].sum())
        return found

    # Every composition with groups asks for them, and each looks at all tensors.
    @cached_property
    def _rules(self) -> Rules:
        return rules_of(self.groups, self.by)

    def _values(self, vector: str, point: Mapping[str, float]) -> dict[str, float]:
        """Returns group -> ω of a vector."""
        own = self.by_vector.get(vector)
        return (
            {WHOLE: 1.0}
            if own is None
            else {group: point.get(name, 0.0) for group, name in own.items()}
        )


def whole_vectors(models: Models, choice: Choice = PLAIN) -> Coordinates:
    """Returns one ω for each open vector."""
    from merging.methods import _contract as methods

    weighted = methods.load(choice.method).weighted
    by_vector = {name: {WHOLE: name} for name in models.names} if weighted else {}
    return Coordinates(choice, by_vector)


def grouped_vectors(models: Models, by: GroupBy) -> Coordinates:
    """Returns an ω for each group of layers of each open vector that the vector changes.

    The vectors are read once for it, as for the tab Geometry.

    Args:
        models: the open models.
        by: "depth" or "part".
    """
    geometry = models.measured_geometry()
    groups = groups_of(dict.fromkeys((*models.base, *geometry.tensors)), by)
    squares: dict[str, Any] = {}
    for row, tensor in enumerate(geometry.tensors):
        lengths = np.diagonal(geometry.grams[row])
        squares[groups[tensor]] = squares.get(groups[tensor], 0.0) + lengths
    # A group that no vector changes has no ω to open.
    used = [group for group in in_order(squares, by) if squares[group].any()]
    shares = {group: (squares[group] / sum(squares.values()).clip(1e-300)).sum() for group in used}
    by_vector = {
        name: {group: f"{name} in {group}" for group in used if squares[group][column] > 0}
        for column, name in enumerate(models.names)
    }
    # A vector of zeros changes nothing, and still has its slider.
    by_vector = {name: own or {WHOLE: name} for name, own in by_vector.items()}
    order = tuple(sorted(used, key=lambda group: -shares[group]))
    return Coordinates(PLAIN, by_vector, by=by, groups=groups, order=order)


def with_parameters(
    coordinates: Coordinates, ranges: Mapping[str, tuple[float, float] | None]
) -> tuple[Coordinates, dict[str, tuple[float, float]]]:
    """Returns coordinates with parameters of their method, and the range of each.

    Args:
        coordinates: of a method.
        ranges: parameter -> lowest and highest value; None for all that the method takes.

    Raises:
        SessionError: the method has no such number, or does not take these values; or a vector has
            the name.
    """
    from merging.methods import _contract as methods
    from plumbing.suggest import nearest

    method = methods.load(coordinates.choice.method)
    numbers = {param.name: param for param in method.parameters if param.type is float}
    found = {}
    for name, given in ranges.items():
        if name not in numbers:
            hint = nearest(name, numbers) if numbers else "it has no number to search."
            raise SessionError(f"{method.name} has no number that is called {name!r}; {hint}")
        if name in coordinates.names:
            raise SessionError(
                f"{name!r} is a vector here and a parameter of {method.name}. Rename the vector."
            )
        param = numbers[name]
        low, high = given or (param.low, param.high)
        if not (param.low <= low < high <= param.high and math.isfinite(high - low)):
            raise SessionError(
                f"{name} is searched from {low:g} to {high:g}; expected a lower and a higher "
                f"number within {param.low:g} and {param.high:g}."
            )
        found[name] = (low, high)
    return replace(coordinates, parameters=tuple(found)), found


def _one(values: Mapping[str, float]) -> float:
    """Returns the ω of a whole vector; 1 if its groups differ, so that it takes part."""
    different = set(values.values())
    return different.pop() if len(different) == 1 else 1.0


def _weight(values: Mapping[str, float], rules: Rules) -> dict[str, Any]:
    """Returns the ω of one vector as rules of a recipe."""
    from merging.methods import _contract as methods

    own = [{"filter": part, "value": values[group]} for part, group in rules if group in values]
    # The vector does not change the tensors of other groups, so this says nothing of its own.
    return {methods.WEIGHT: [*own, {"value": 0.0}]}


def _key(identity: str, by: GroupBy, group: str) -> str:
    return identity if group == WHOLE else f"{identity} {by}: {group}"
