"""Measures points of a search by benchmarks of lm-eval instead of losses.

A score takes the place of a loss: minus the score where higher is better. The scores are runs of
the workdir, so a search that is run again, the page and `dem compare` find them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from evaluation.benchmark_scores import is_lower_better
from workbench.errors import SessionError
from workbench.search.points import Points
from workbench.session.keys import weights_key
from workbench.session.runs import keep_scores
from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from evaluation.records.scores import Run
    from evaluation.search import Measured
    from merging.recipe import Recipe
    from workbench.search.coordinates import Coordinates
    from workbench.search.wanted import TaskAim
    from workbench.session.models import Models
    from workbench.session.session import Session


class ScoreRow(NamedTuple):
    """What a composition gives on one task.

    Attributes:
        task, metric: as lm-eval calls them.
        base, here: the score of the base and of the composition.
        error: standard error of their difference; see BenchmarkPoints.errors_to_base.
    """

    task: str
    metric: str
    base: float
    here: float
    error: float


class _Found(NamedTuple):
    metric: str
    value: float
    stderr: float

    @property
    def loss(self) -> float:
        return self.value if is_lower_better(self.metric) else -self.value


class BenchmarkPoints(Points):
    """Measures compositions by the first metric of each task.

    Args:
        session: its workdir keeps the runs, its ledger the cost.
        models: its open models, with a tokenizer.
        coordinates: what the points stand for.
        bench: the tasks.

    Raises:
        TaskError: a task is unknown, or its data are not available.
    """

    def __init__(
        self, session: Session, models: Models, coordinates: Coordinates, bench: TaskAim
    ) -> None:
        from evaluation import harness

        super().__init__(session, models, coordinates)
        self._bench = bench
        harness.check(list(bench.tasks) or bench.suite)

    @property
    def has_gradients(self) -> bool:
        """False: a share of right answers has no derivative."""
        return False

    def measure_recipe(self, recipe: Recipe, gradients: bool, stale: Stale) -> Measured:
        """Returns the scores of a composition as losses: task -> number, lower is better.

        Raises:
            Stopped: `stale` became true.
            SessionError, MergingError: the point cannot be composed.
        """
        from evaluation.search import Measured

        return Measured({task: each.loss for task, each in self._scores(recipe, stale).items()})

    def errors_to_base(self, recipe: Recipe) -> dict[str, float]:
        """Returns, by task, the standard error of the difference from the base's score.

        lm-eval gives no answers of single questions here, so the two errors are added as if the
        scores were of different questions. The true error is smaller.
        """
        base = self._scores(self._models.recipe({}), lambda: False)
        here = self._scores(recipe, lambda: False)
        both = {task: math.hypot(each.stderr, base[task].stderr) for task, each in here.items()}
        # A score of one question has no error.
        return {task: 0.0 if math.isnan(error) else error for task, error in both.items()}

    def table(self, recipe: Recipe) -> list[ScoreRow]:
        """Returns what a composition gives on each task, beside the base."""
        base = self._scores(self._models.recipe({}), lambda: False)
        errors = self.errors_to_base(recipe)
        return [
            ScoreRow(task, each.metric, base[task].value, each.value, errors[task])
            for task, each in self._scores(recipe, lambda: False).items()
        ]

    def on_all(self) -> BenchmarkPoints | None:
        """Returns the same with all questions; None if these are all."""
        if self._bench.limit is None:
            return None
        bench = replace(self._bench, limit=None)
        return BenchmarkPoints(self._session, self._models, self._coordinates, bench)

    def _scores(self, recipe: Recipe, stale: Stale) -> Mapping[str, _Found]:
        """Returns task -> its score; what the workdir has is not measured again."""
        found = self._known(recipe)
        if found is None:
            self.measured += 1
            self._run(recipe, stale)
            found = self._known(recipe)
        assert found is not None
        return found

    def _run(self, recipe: Recipe, stale: Stale) -> None:
        from evaluation import harness
        from evaluation.benchmark_scores import count_examples
        from evaluation.records.meter import measured

        session, models, bench = self._session, self._models, self._bench
        name = f"benchmark {bench.title}"
        with (
            measured(
                session.ledger, "search", name, device=session.device, digest=weights_key(recipe)
            ) as spent,
            session.composed(models, recipe, stale) as module,
        ):
            scores = harness.run(
                module,
                models.loaded.tokenizer,
                list(bench.tasks) or bench.suite,
                limit=bench.limit,
                should_stop=stale,
            )
            spent.count(count_examples(scores))
        keep_scores(session.workdir, recipe, scores, suite=bench.suite, limit=bench.limit)

    def _known(self, recipe: Recipe) -> dict[str, _Found] | None:
        """Returns the scores that the workdir has; None if a task is missing.

        Raises:
            SessionError: the tasks have no metric that is a number.
        """
        from evaluation.records.scores import RunStore, versions

        if not self._session.workdir.runs.exists():
            return None
        with RunStore(self._session.workdir.runs) as store:
            runs = store.runs(recipe_digest=recipe.digest)
        bench, now = self._bench, versions()
        runs = [
            run
            for run in reversed(runs)
            if run.kind == "bench"
            and (run.limit, run.suite) == (bench.limit, bench.suite)
            and dict(run.versions) == now
        ]
        names = bench.tasks or _members(runs, bench.suite)
        if not runs or not {run.task for run in runs} >= set(names):
            return None
        found = {}
        for task in names:
            # The runs of one measurement are stored in lm-eval's order.
            first = next(run.metric for run in runs if run.task == task)
            newest = [run for run in runs if (run.task, run.metric) == (task, first)][-1]
            found[task] = _Found(first, newest.value, newest.stderr)
        if not found:
            raise SessionError(f"{bench.title} gave no number, so it cannot be an aim.")
        return found


def _members(runs: Sequence[Run], suite: str) -> list[str]:
    """Returns the tasks of a suite, without the suite's own mean."""
    return list(dict.fromkeys(run.task for run in runs if run.task != suite))
