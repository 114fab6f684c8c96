"""Runs a search on the open models: asks the searcher, measures, tells, until the budget is spent.

A search needs no state of its own. The searcher proposes the same points for the same answers, and
what was measured is in the workdir. So a search that was interrupted goes on when it is run again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import SessionError
from workbench.search.points import GRADIENT_COST, Points
from workbench.search.side_by_side import Ahead
from workbench.search.wanted import Wanted
from workbench.session.loss_on_axis import FULL
from workbench.session.tickets import Stale
from workbench.workers.shared_folder import take_over

if TYPE_CHECKING:
    from evaluation.search import Searcher, Trial
    from evaluation.search.objective import Objective
    from workbench.session.loss_cache import Entry
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
    spent: int


class Search:
    """One search of ω.

    Args:
        session: the session.
        models: its open models, with data.
        wanted: what is searched for.
        executor: has points measured by other processes; None to measure them here.

    Attributes:
        ends: dataset -> the losses of the base and of its own expert (None if it has none).
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
        self._session, self._models, self.wanted = session, models, wanted
        self.points = Points(session, models)
        self._ahead = Ahead(session, models, self.points, executor) if executor else None
        self.names = tuple(models.names)
        wanted.space(self.names)  # raises before anything is measured
        if wanted.method == "gradient" and not self.points.has_gradients:
            raise SessionError(
                "this model is loaded anew for each composition, so derivatives cannot be "
                "computed. Search with another method, such as coordinate."
            )
        self.ends: Mapping[str, tuple[Entry, Entry | None]] = {}
        self.searcher: Searcher | None = None
        self.objective: Objective | None = None
        self.spent, self.problem = 0, ""
        self._base: Trial | None = None
        self._reason = ""

    @property
    def best(self) -> Trial | None:
        """The best trial so far; the base itself if it is in the space and nothing is better."""
        told = self.searcher.best if self.searcher else None
        tried = [trial for trial in (told, self._base) if trial is not None]
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
            trial = self._trial(point, gradients, stale)
            searcher.tell(trial)
            self.spent += cost
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

    def score_of(self, omegas: Mapping[str, float], stale: Stale = lambda: False) -> float:
        """Returns the score of any composition, once the search has begun."""
        assert self.objective is not None
        return self.objective.score(self.points.measure(omegas, False, stale).losses)

    def _begin(self, stale: Stale) -> Searcher:
        """Measures the ends of the axes, and makes the objective and the searcher of them."""
        from evaluation.search import Measured, Trial

        take_over(self._session.workdir.units, self._session.book, self._session.ledger)
        if self._ahead:
            self._ahead.ends(stale)
        self.ends = self._session.measuring.ends(self._models, FULL, stale)
        base = {name: start.value for name, (start, _) in self.ends.items()}
        experts = {name: best.value for name, (_, best) in self.ends.items() if best is not None}
        self.objective = self.wanted.objective(base, experts)
        # The base was measured on all datasets anyway, so the surrogate learns from it.
        zero = dict.fromkeys(self.names, 0.0)
        start = Trial(zero, self.objective.score(base), Measured(base))
        self.searcher = self.wanted.searcher(self.names, list(base), self.objective, [start])
        self._base = start if self.searcher.space.inside(zero) == zero else None
        return self.searcher

    def _trial(self, point: dict[str, float], gradients: bool, stale: Stale) -> Trial:
        """Measures a point. One whose weights or losses are not finite has the score infinity."""
        from evaluation.search import Trial
        from merging.errors import MergingError

        assert self.objective is not None and self.searcher is not None
        if self._ahead:
            room = (self.wanted.budget - self.spent) // (GRADIENT_COST if gradients else 1)
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
        return Trial(point, self.objective.score(measured.losses), measured)

    def at_bounds(self) -> list[str]:
        """Returns the vectors whose best ω is at a bound that is not 0: a wider range may help."""
        best = self.best
        return [
            name
            for name, omega in (best.point.items() if best else ())
            if omega in (self.wanted.low, self.wanted.high)
            and omega != 0
            and name not in self.wanted.frozen
        ]
