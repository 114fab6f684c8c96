"""The benchmark scores of a workdir: kept with all that is needed to measure them again, and read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from workbench.session.workdir import Workdir

if TYPE_CHECKING:
    from evaluation.harness import Score
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
    """Store the scores of one benchmark, all or none, with what it takes to measure them again."""
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
    """Scores of a workdir, newest first."""
    if not workdir.runs.exists():
        return []
    from evaluation.records.scores import RunStore

    with RunStore(workdir.runs) as store:
        return store.runs(limit)
