"""Scores of compositions: measured with lm-eval, kept in the workdir's table of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench import commands
from workbench.errors import SessionError
from workbench.jobs import Cancelled, Handle, Job
from workbench.spending import key

if TYPE_CHECKING:
    from evaluation.harness import Progress, Score
    from evaluation.results import Run
    from merging.recipe import Recipe
    from workbench.session import Session

RUNS = "runs.sqlite"


class Asked(NamedTuple):
    """A benchmark."""

    suite: str
    tasks: tuple[str, ...]
    """Empty for a suite."""
    limit: int | None
    """The first so many examples of each task; None for all."""

    @property
    def name(self) -> str:
        """What it is called in the ledger."""
        return f"benchmark {', '.join(self.tasks) or self.suite}"

    def check(self) -> None:
        """Raise SessionError where it cannot be run."""
        if self.limit is not None and self.limit < 1:
            raise SessionError(
                f"the limit is {self.limit}; give at least 1 example per task, or leave it empty for all."
            )
        if not self.suite and not self.tasks:
            raise SessionError("no task is chosen; choose a suite, or name tasks.")


def submit(session: Session, recipe: Recipe, suite: str, tasks: Sequence[str], limit: int | None) -> Job:
    """Score a composition as a job, on a module of its own where memory allows, so that sliders stay free."""
    asked = Asked(suite, tuple(tasks), limit)
    asked.check()
    models = session.models
    command = commands.bench(session.save_recipe(recipe), suite, tasks, limit, session.workdir)

    def work(handle: Handle) -> str:
        handle.log(f"composing {recipe.formula()}")
        scores = score(
            session,
            recipe,
            asked,
            handle,
            with_module=lambda ask: session.with_frozen(models, recipe, ask),
            tokenizer=models.loaded.tokenizer,
            progress=handle.progress,
        )
        return ", ".join(f"{found.task} {found.value:.3f}" for found in scores)

    title = f"{', '.join(tasks) or suite} on {recipe.formula()}"
    return session.jobs.submit("benchmark", title, work, key=command, command=command)


def score(
    session: Session,
    recipe: Recipe,
    asked: Asked,
    handle: Handle,
    *,
    with_module: Callable[[Callable[[Any], list[Score]]], list[Score]],
    tokenizer: Any,
    progress: Progress,
) -> list[Score]:
    """Score a model inside a job, and keep the scores and what they cost.

    Args:
        session: whose workdir keeps them.
        recipe: what the model is, for the table of runs.
        asked: a suite, or tasks, and a limit.
        handle: of the job: asked whether to stop, and told each score.
        with_module: runs work on the module.
        tokenizer: of the model.
        progress: see evaluation.harness.

    Raises:
        Cancelled: someone asked the job to stop; nothing is kept but the cost.
    """
    from evaluation import harness
    from evaluation.errors import Stopped
    from evaluation.meter import measured

    suite, tasks, limit = asked

    def ask(module: Any) -> list[Score]:
        return harness.run(
            module,
            tokenizer,
            list(tasks) or suite,
            limit=limit,
            progress=progress,
            should_stop=lambda: handle.should_stop,
        )

    try:
        with measured(session.ledger, "evaluation", asked.name, device=session.device, digest=key(recipe)) as spent:
            scores = with_module(ask)
            spent.count(examples(scores))
    except Stopped:
        raise Cancelled from None
    for found in scores:
        handle.log(f"{found.task} {found.metric} {found.value:.3f} (n={found.n})")
    keep(session.workdir, recipe, scores, suite="" if tasks else suite, limit=limit)
    return scores


def examples(scores: Sequence[Score]) -> int:
    """The examples of a benchmark: those of each task once, whatever its metrics, and none of groups, which repeat them."""
    return sum({found.task: found.n for found in scores if not found.group}.values())


def keep(
    workdir: Path,
    recipe: Recipe,
    scores: Sequence[Score],
    *,
    suite: str,
    limit: int | None,
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Store the scores of one benchmark, all or none, with what it takes to measure them again."""
    from evaluation.results import Run, RunStore

    runs = [
        Run(
            recipe_digest=recipe.digest,
            recipe_yaml=recipe.to_yaml(),
            formula=recipe.formula(),
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
    with RunStore(workdir / RUNS, say) as store:
        store.add_all(runs)


def runs(workdir: Path, limit: int) -> list[Run]:
    """Scores of a workdir, newest first."""
    if not (workdir / RUNS).exists():
        return []
    from evaluation.results import RunStore

    with RunStore(workdir / RUNS) as store:
        return store.runs(limit)
