"""Scores of compositions: measured with lm-eval, kept in the workdir's table of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench import commands
from workbench.errors import SessionError
from workbench.session.job_table import Cancelled, Handle, Job
from workbench.session.keys import weights_key
from workbench.session.runs import keep_scores

if TYPE_CHECKING:
    from evaluation.harness import Progress, Score
    from merging.recipe import Recipe
    from workbench.session.session import Session


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


def submit(
    session: Session,
    recipe: Recipe,
    suite: str,
    tasks: Sequence[str] = (),
    limit: int | None = None,
) -> Job:
    """Score a composition as a job, on a module of its own where memory allows, so that sliders stay free."""
    from merging.recipe.formula import formula

    asked = Asked(suite, tuple(tasks), limit)
    asked.check()
    models = session.models
    command = commands.bench(session.save_recipe(recipe), suite, tasks, limit, session.workdir.root)

    def work(handle: Handle) -> str:
        handle.log(f"composing {formula(recipe)}")
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

    title = f"{', '.join(tasks) or suite} on {formula(recipe)}"
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
    from evaluation.records.meter import measured

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
        with measured(
            session.ledger,
            "evaluation",
            asked.name,
            device=session.device,
            digest=weights_key(recipe),
        ) as spent:
            scores = with_module(ask)
            spent.count(examples(scores))
    except Stopped:
        raise Cancelled from None
    for found in scores:
        handle.log(f"{found.task} {found.metric} {found.value:.3f} (n={found.n})")
    keep_scores(session.workdir, recipe, scores, suite="" if tasks else suite, limit=limit)
    return scores


def examples(scores: Sequence[Score]) -> int:
    """The examples of a benchmark: those of each task once, whatever its metrics, and none of groups, which repeat them."""
    return sum({found.task: found.n for found in scores if not found.group}.values())
