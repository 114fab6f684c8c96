"""The region that a search of the open models looks at, and the searcher that goes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import SessionError
from workbench.search.coordinates import (
    WHOLE,
    Coordinates,
    grouped_vectors,
    whole_vectors,
    with_parameters,
)
from workbench.search.wanted import Method, Wanted

if TYPE_CHECKING:
    from evaluation.search import Searcher, Space, Trial
    from evaluation.search.contract import Point
    from evaluation.search.limits import Limit
    from evaluation.search.objective import Objective
    from evaluation.search.staged import Make
    from workbench.session.models import Models


@dataclass(frozen=True, eq=False)
class Region:
    """Where a search looks.

    Attributes:
        coordinates: what its points stand for.
        space: their bounds and limits.
        first: the first point.
    """

    coordinates: Coordinates
    space: Space
    first: Point

    @classmethod
    def of(cls, models: Models, wanted: Wanted) -> Region:
        """Returns the region that is wanted.

        Raises:
            SessionError: what is wanted does not fit the open models.
        """
        from evaluation.search import Space
        from merging.methods import _contract as methods

        names = tuple(models.names)
        by_vector, first = wanted.space(names).bounds, wanted.first(names)
        if wanted.groups:
            coordinates = grouped_vectors(models, wanted.groups)
        else:
            coordinates = whole_vectors(models, wanted.merge)
        coordinates, ranges = with_parameters(coordinates, wanted.vary)
        if not coordinates.names:
            raise SessionError(
                f"{wanted.merge.method} has no ω. Name a number of it to search, such as "
                "--vary density."
            )
        bounds, start = dict[str, tuple[float, float]](), dict[str, float]()
        method = methods.load(wanted.merge.method)
        for name in coordinates.names:
            vector = coordinates.vector_of(name)
            bounds[name] = ranges[name] if vector is None else by_vector[vector]
            default = wanted.merge.parameters.get(name, method.default(name))
            # A number that every recipe must give has no default: the middle of its range.
            middle = sum(bounds[name]) / 2 if default is None else default
            start[name] = float(middle) if vector is None else first[vector]
        try:
            space = Space(bounds, tuple(_limits(models, wanted, coordinates)))
        except ValueError as error:
            raise SessionError(str(error)) from None
        return cls(coordinates, space, space.inside(start))

    def searcher(
        self,
        wanted: Wanted,
        datasets: Sequence[str],
        objective: Objective,
        known: Sequence[Trial],
        at_once: int = 1,
    ) -> Searcher:
        """Returns the searcher.

        Args:
            wanted: what is searched for.
            datasets: whose losses are measured.
            objective: what is minimised.
            known: trials that were measured before, such as the base; all methods that model
                their scores learn from them.
            at_once: how many points are measured side by side.

        Raises:
            SessionError: the settings make no search.
        """
        from evaluation.search.staged import StagedSearch, openings

        make = _maker(wanted, datasets, objective, at_once)
        try:
            if self.coordinates.by == WHOLE:
                return make(self.space, self.first, known)
            stages = openings(self.coordinates.by_vector, self.coordinates.order)
            # The last stage has what the others leave.
            points = [max(1, wanted.budget // len(stages))] * (len(stages) - 1)
            return StagedSearch(self.space, stages, points, self.first, make, known=known)
        except ValueError as error:
            raise SessionError(str(error)) from None


def _limits(models: Models, wanted: Wanted, coordinates: Coordinates) -> list[Limit]:
    """Returns the limits that are wanted. A sum of ω is limited in each group of layers."""
    from evaluation.search.limits import SumLimit

    limits: list[Limit] = []
    by_group: dict[str, list[str]] = {}
    for own in coordinates.by_vector.values():
        for group, name in own.items():
            by_group.setdefault(group, []).append(name)
    if wanted.highest_sum is not None:
        limits += [SumLimit(tuple(own), wanted.highest_sum) for own in by_group.values()]
    if wanted.highest_norm is not None:
        limits.append(_norm_limit(models, wanted.highest_norm, coordinates))
    return limits


def _norm_limit(models: Models, highest: float, coordinates: Coordinates) -> Limit:
    """Returns the limit on ‖Σ ωᵢ Δᵢ‖ / ‖Θ‖. Different groups have no tensor in common."""
    from evaluation.search.limits import NormLimit

    geometry = models.measured_geometry()
    places = [
        (name, column, group)
        for column, vector in enumerate(models.names)
        for group, name in coordinates.by_vector[vector].items()
    ]
    gram = np.zeros((len(places), len(places)))
    for group in {group for *_, group in places}:
        rows = [
            row
            for row, tensor in enumerate(geometry.tensors)
            if group == WHOLE or coordinates.groups[tensor] == group
        ]
        at = [place for place, (*_, own) in enumerate(places) if own == group]
        columns = [places[place][1] for place in at]
        gram[np.ix_(at, at)] = geometry.grams[rows].sum(0)[np.ix_(columns, columns)]
    names = tuple(name for name, *_ in places)
    return NormLimit(names, highest, gram / geometry.base_squares.sum())


def _maker(wanted: Wanted, datasets: Sequence[str], objective: Objective, at_once: int) -> Make:
    """Returns what makes the searcher of a space."""
    from evaluation.search.cma import CmaSearch
    from evaluation.search.coordinate import CoordinateSearch
    from evaluation.search.gp import GpSearch
    from evaluation.search.gradient import GradientSearch
    from evaluation.search.greedy import GreedySearch
    from evaluation.search.grid import GridSearch
    from evaluation.search.nsga import NsgaSearch
    from evaluation.search.simplex import SimplexSearch
    from evaluation.search.surrogate import SurrogateSearch
    from evaluation.search.tpe import TpeSearch

    aims = datasets if wanted.aim == "front" else ()

    def make(space: Space, first: Mapping[str, float], known: Sequence[Trial]) -> Searcher:
        more: dict[str, Any] = {"known": known, "seed": wanted.seed}
        makers: dict[Method, Callable[[], Searcher]] = {
            "surrogate": lambda: SurrogateSearch(space, objective, first, **more, at_once=at_once),
            "gradient": lambda: GradientSearch(space, objective, first, at_once),
            "coordinate": lambda: CoordinateSearch(space, first, at_once=at_once),
            "greedy": lambda: GreedySearch(space, wanted.levels),
            "grid": lambda: GridSearch(space, wanted.levels),
            "simplex": lambda: SimplexSearch(space, wanted.levels),
            "tpe": lambda: TpeSearch(space, first, **more, at_once=at_once),
            "gp": lambda: GpSearch(space, first, aims, **more, at_once=at_once),
            "nsga": lambda: NsgaSearch(space, first, datasets, **more),
            "cma": lambda: CmaSearch(space, first, seed=wanted.seed),
        }
        return makers[wanted.method]()

    return make
