"""Stores the runs (benchmark scores) of a workdir and reads them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from workbench.session.workdir import Workdir

if TYPE_CHECKING:
    from evaluation.benchmark_scores import Score
    from evaluation.records.scores import Run
    from merging.recipe import Recipe


def keep_scores(
    workdir: Workdir,
    recipe: Recipe,
    scores: Sequence[Score],
    *,
    suite: str,
    limit: int | None,
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Stores the scores of one benchmark as runs, all of them or none.

    Args:
        workdir: where the runs are kept.
        recipe: the composition that was measured; each run holds all of it, to be repeatable.
        scores: the scores.
        suite: the suite that was run, or "" for single tasks.
        limit: examples per task, or None for all.
        say: called with one sentence if a damaged file was moved aside.

    Raises:
        StoreError: the file cannot be written.
    """
    from evaluation.records.scores import Run, RunStore
    from merging.recipe import recipe_yaml
    from merging.recipe.formula import formula

    runs = [
        Run(
            recipe_digest=recipe.digest,
            recipe_yaml=recipe_yaml(recipe),
            formula=formula(recipe),
            kind="bench",
            task=score.task,
            metric=score.metric,
            value=score.value,
            stderr=score.stderr,
            n=score.n,
            seed=recipe.seed,
            limit=limit,
            suite=suite,
            seconds=score.seconds,
        )
        for score in scores
    ]
    with RunStore(workdir.runs, say) as store:
        store.add_all(runs)


def read_runs(workdir: Workdir, limit: int = 200) -> list[Run]:
    """Returns the `limit` newest runs of a workdir (-1 for all), newest first."""
    # Reading must not make a file in a workdir that has no runs yet.
    if not workdir.runs.exists():
        return []
    from evaluation.records.scores import RunStore

    with RunStore(workdir.runs) as store:
        return store.runs(limit)
