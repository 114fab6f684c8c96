"""Runs a search on the open models: asks the searcher, measures, tells, until the budget is spent.

A search needs no state of its own. The searcher proposes the same points for the same answers, and
what was measured is in the workdir. So a search that was interrupted goes on when it is run again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workbench.errors import SessionError
from workbench.search.benchmark_points import BenchmarkPoints
from workbench.search.points import GRADIENT_COST, Points
from workbench.search.prior import known_before
from workbench.search.region import Region
from workbench.search.screening import Screening, few_of
from workbench.search.side_by_side import Ahead
from workbench.search.wanted import Wanted
from workbench.session.loss_on_axis import FULL
from workbench.session.opening import open_data
from workbench.session.tickets import Stale
from workbench.workers.shared_folder import take_over

if TYPE_CHECKING:
    from evaluation.records.loss_cache import Entry
    from evaluation.search import Measured, Searcher, Trial
    from evaluation.search.objective import Losses, Objective
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session
    from workbench.workers.executor import Executor

FAILURES = 5
"""So many points in a row that cannot be measured end a search."""


@dataclass(frozen=True)
class SearchStep:
    """What a search has done so far.

    Attributes:
        trial: the last point.
        best: the best one; None if all failed.
        spent: evaluations so far, without the ends of the axes.
    """

    trial: Trial
    best: Trial | None
    spent: float


class Search:
    """One search of ω.

    Args:
        session: the session.
        models: its open models, with data.
        wanted: what is searched for.
        executor: has points measured by other processes; None to measure them here.

    Attributes:
        region: where it looks.
        points: what measures it.
        ends: dataset -> the losses of the base and of its own expert (None if it has none).
        known: trials that were measured before it began, such as the base; in any range of ω.
        searcher: with all trials.
        objective: what is minimised.
        spent: evaluations so far.
        problem: why the search ended early; "" if it did not.

    Raises:
        SessionError: no data are open, or what is wanted does not fit the models.
    """

    def __init__(
        self, session: Session, models: Models, wanted: Wanted, executor: Executor | None = None
    ) -> None:
        if not models.data:
            raise SessionError(
                "a search measures losses, and no data are open. "
                "Give a folder with DATASET/validation.jsonl."
            )
        if wanted.screened:
            if executor:
                raise SessionError(
                    "--few-first compares each point with the best so far, and workers measure "
                    "points side by side. Leave out one of both."
                )
            assert models.data_folder is not None
            data = open_data(models.data_folder, models.loaded, quick=few_of)
            models = replace(models, data=data)
        self._session, self._models, self.wanted = session, models, wanted
        self.region = Region.of(models, wanted)
        if wanted.bench:
            if executor:
                raise SessionError("workers measure losses, and the aim is a benchmark.")
            self.points: Points = BenchmarkPoints(
                session, models, self.region.coordinates, wanted.bench
            )
        else:
            self.points = Points(session, models, self.region.coordinates)
        self._ahead = Ahead(session, models, self.points, executor) if executor else None
        self._at_once = executor.width if executor else 1
        if wanted.method == "gradient" and not self.points.has_gradients:
            raise SessionError(
                "derivatives can be computed for Θ + Σ ωᵢ Δᵢ in a model that is written in place "
                "only, and not here. Search with another method, such as coordinate."
            )
        self.ends: Mapping[str, tuple[Entry, Entry | None]] = {}
        self.searcher: Searcher | None = None
        self.objective: Objective | None = None
        self.spent: float = 0
        self.problem = ""
        self.known: list[Trial] = []
        self._inside: list[Trial] = []
        self._screening: Screening | None = None
        self._reason = ""

    @property
    def best(self) -> Trial | None:
        """The best trial so far, or what was known before if nothing in the space is better."""
        told = self.searcher.best if self.searcher else None
        tried = [told, *self._inside] if told else self._inside
        return min(tried, key=lambda trial: trial.score, default=None)

    def steps(self, stale: Stale = lambda: False) -> Iterator[SearchStep]:
        """Searches, and yields after each point.

        Raises:
            Stopped: `stale` became true. What was measured is kept.
            SessionError: the aim needs an expert that is better than the base.
        """
        searcher = self._begin(stale)
        gradients = searcher.GRADIENTS and self.points.has_gradients
        cost, failures = GRADIENT_COST if gradients else 1, 0
        if self.wanted.budget < cost:
            raise SessionError(
                f"the budget is {self.wanted.budget} evaluations, and one with derivatives counts "
                f"as {cost}. Give more, or search with another method, such as coordinate."
            )
        while self.spent + cost <= self.wanted.budget and failures < FAILURES:
            point = searcher.ask()
            if point is None:
                break
            trial = self._given_up(point, stale)
            if trial is None:
                trial = self._trial(point, gradients, stale)
                self.spent += cost
            searcher.tell(trial)
            failures = failures + 1 if trial.score == math.inf else 0
            yield SearchStep(searcher.trials[-1], self.best, self.spent)
        if self._ahead:
            self._ahead.stop()
        if failures == FAILURES:
            last = ", ".join(f"{omega:g}" for omega in searcher.trials[-1].point.values())
            self.problem = (
                f"{FAILURES} compositions in a row could not be measured, the last one at ω = "
                f"{last}: {self._reason} Narrower bounds may help."
            )

    def recipe_of(self, trial: Trial) -> Recipe:
        """Returns the composition of a trial."""
        return self.points.recipe(trial.point)

    def score_of(self, omegas: Mapping[str, float], stale: Stale = lambda: False) -> float:
        """Returns the score of any ω of whole vectors, once the search has begun."""
        assert self.objective is not None
        point = self.region.coordinates.point_of(omegas, self.region.first)
        return self._score(point, self.points.measure(point, False, stale).losses)

    def _begin(self, stale: Stale) -> Searcher:
        """Measures the ends of the axes, and makes the objective and the searcher of them."""
        from evaluation.search import Trial

        take_over(self._session.workdir.units, self._session.book, self._session.ledger)
        if self._ahead:
            self._ahead.ends(stale)
        base, experts = self._axes(stale)
        self.objective = self.wanted.objective(base, experts)
        if self.wanted.screened:
            self._screening = Screening(self._session, self._models, self.objective)
        self.known = [
            Trial(point, self._score(point, measured.losses), measured)
            for point, measured in self._before(base)
        ]
        space = self.region.space
        self._inside = [each for each in self.known if space.inside(each.point) == each.point]
        self.searcher = self.region.searcher(
            self.wanted, list(base), self.objective, self.known, self._at_once
        )
        return self.searcher

    def _axes(self, stale: Stale) -> tuple[Losses, Losses]:
        """Returns the losses of the base, and those of the datasets' own experts."""
        if self.wanted.bench:
            before = self.points.measured
            found = self.points.measure_recipe(self._models.recipe({}), False, stale).losses
            # It is no point of the search.
            self.points.measured = before
            return found, {}
        self.ends = self._session.measuring.ends(self._models, FULL, stale)
        base = {name: start.value for name, (start, _) in self.ends.items()}
        return base, {name: own.value for name, (_, own) in self.ends.items() if own is not None}

    def _before(self, base: Losses) -> list[tuple[dict[str, float], Measured]]:
        """Returns what is known before the first trial: the base, and what others measured."""
        from evaluation.search import Measured

        # With other methods ω = 0 need not be the base.
        if not self.region.coordinates.is_sum:
            return []
        zero = dict.fromkeys(self.region.space.names, 0.0)
        if self.wanted.alone or self.wanted.bench:
            return [(zero, Measured(base))]
        known = known_before(self._session, self._models, self.wanted, self.region)
        # The base was measured just now, perhaps after the list was made.
        has_base = any(point == zero for point, _ in known)
        return known if has_base else [(zero, Measured(base)), *known]

    def _trial(self, point: dict[str, float], gradients: bool, stale: Stale) -> Trial:
        """Measures a point. One whose weights or losses are not finite has the score infinity."""
        from evaluation.search import Trial
        from merging.errors import MergingError

        assert self.objective is not None and self.searcher is not None
        if self._ahead:
            left = self.wanted.budget - int(self.spent)
            room = left // (GRADIENT_COST if gradients else 1)
            problem = self._ahead.wait_for(point, self.searcher, room, gradients, stale)
            if problem:
                self._reason = problem
                return Trial(point, math.inf)
        try:
            measured = self.points.measure(point, gradients, stale)
        except MergingError as error:
            self._reason = str(error)
            return Trial(point, math.inf)
        for dataset, loss in measured.losses.items():
            if not math.isfinite(loss):
                self._reason = f"its loss on {dataset} is {loss}."
                return Trial(point, math.inf)
        return Trial(point, self._score(point, measured.losses), measured)

    def _given_up(self, point: dict[str, float], stale: Stale) -> Trial | None:
        """Returns the trial of a point that is surely not the best; None to measure all of it."""
        from evaluation.search import Trial
        from merging.errors import MergingError

        if self._screening is None or (best := self.best) is None or best.measured is None:
            return None
        recipe, of_best = self.points.recipe(point), self.recipe_of(best)
        try:
            score = self._screening.given_up(recipe, best, of_best, stale)
        except MergingError:
            return None  # measuring all of it tells why
        self.spent += self._screening.cost
        return None if score is None else Trial(point, score)

    def _score(self, point: Mapping[str, float], losses: Losses) -> float:
        """Returns the score of a measured point; see Objective.score."""
        from evaluation.search.objective import Limited

        assert self.objective is not None
        # The errors count only above a limit. They are read from the cache, example by example, and
        # a search may begin with hundreds of known points.
        if not (isinstance(self.objective, Limited) and self.objective.exceeded(losses)):
            return self.objective.score(losses)
        errors = self.points.errors_to_base(self.points.recipe(point))
        return self.objective.score(losses, errors)

    def at_bounds(self) -> list[str]:
        """Returns the ω that are best at a bound that is not 0: a wider range may help."""
        best, vector_of = self.best, self.region.coordinates.vector_of
        return [
            name
            for name, omega in (best.point.items() if best else ())
            if omega in (self.wanted.low, self.wanted.high)
            and omega != 0
            and (vector := vector_of(name)) is not None
            and vector not in self.wanted.frozen
        ]
