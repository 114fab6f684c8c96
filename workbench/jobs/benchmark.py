"""Benchmark job: scores a composition with lm-eval and keeps the scores as runs of the workdir."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench import commands
from workbench.errors import SessionError
from workbench.jobs.frozen import with_frozen
from workbench.session.job_table import Cancelled, Handle, Job
from workbench.session.keys import weights_key
from workbench.session.runs import keep_scores

if TYPE_CHECKING:
    from evaluation.benchmark_scores import Score
    from evaluation.harness_progress import Progress
    from merging.recipe import Recipe
    from workbench.session.session import Session


class BenchmarkRequest(NamedTuple):
    """A benchmark that the user asks for.

    Attributes:
        suite: name of the suite; not used if tasks are given.
        tasks: names of lm-eval tasks; empty to run the suite.
        limit: how many of the first examples of each task are used, or None for all.
    """

    suite: str
    tasks: tuple[str, ...]
    limit: int | None

    @property
    def name(self) -> str:
        """The name of its phase in the ledger."""
        return f"benchmark {', '.join(self.tasks) or self.suite}"

    def check(self) -> None:
        """Checks that the benchmark can be run.

        Raises:
            SessionError: the limit is below 1, or neither a suite nor a task is given.
        """
        if self.limit is not None and self.limit < 1:
            raise SessionError(
                f"the limit is {self.limit}; give at least 1 example per task, or leave it empty "
                "for all."
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
    """Starts a job that scores a composition.

    It works on a copy of the module if memory allows, so that the sliders stay usable.

    Args:
        session: with open models.
        recipe: the composition.
        suite, tasks, limit: see BenchmarkRequest.

    Raises:
        SessionError: the benchmark cannot be run.
    """
    from merging.recipe.formula import formula

    request = BenchmarkRequest(suite, tuple(tasks), limit)
    request.check()
    # The job keeps these models, even if others are opened while it is queued.
    models = session.models
    file = session.workdir.save_recipe(recipe)
    command = commands.bench(file, suite, tasks, limit, session.workdir.root)

    def work(handle: Handle) -> str:
        handle.log(f"composing {formula(recipe)}")
        scores = score(
            session,
            recipe,
            request,
            handle,
            with_module=lambda work: with_frozen(session, models, recipe, work),
            tokenizer=models.loaded.tokenizer,
            progress=handle.progress,
        )
        return ", ".join(f"{result.task} {result.value:.3f}" for result in scores)

    # The command is the key: it names recipe, tasks and limit, all that tells benchmarks apart.
    title = f"{', '.join(tasks) or suite} on {formula(recipe)}"
    return session.jobs.submit("benchmark", title, work, key=command, command=command)


def score(
    session: Session,
    recipe: Recipe,
    request: BenchmarkRequest,
    handle: Handle,
    *,
    with_module: Callable[[Callable[[Any], list[Score]]], list[Score]],
    tokenizer: Any,
    progress: Progress,
) -> list[Score]:
    """Scores a model inside a job and keeps the scores and their cost.

    Args:
        session: its workdir keeps the scores, its ledger the cost.
        recipe: the recipe that gives the model, stored with each run.
        request: the benchmark.
        handle: the handle of the job; its log gets each score.
        with_module: returns the result of its argument called with the module.
        tokenizer: the tokenizer of the model.
        progress: see evaluation.harness.

    Raises:
        Cancelled: the user cancelled the job; only the cost is kept.
    """
    from evaluation import harness
    from evaluation.benchmark_scores import count_examples
    from evaluation.errors import Stopped
    from evaluation.records.meter import measured

    suite, tasks, limit = request

    def run(module: Any) -> list[Score]:
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
            request.name,
            device=session.device,
            digest=weights_key(recipe),
        ) as spent:
            scores = with_module(run)
            spent.count(count_examples(scores))
    # Outside `measured`, which has to see the error to write an incomplete row.
    except Stopped:
        raise Cancelled from None
    for result in scores:
        handle.log(f"{result.task} {result.metric} {result.value:.3f} (n={result.n})")
    keep_scores(session.workdir, recipe, scores, suite="" if tasks else suite, limit=limit)
    return scores
