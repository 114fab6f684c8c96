"""Comparison job: measures the losses and benchmarks that a comparison lacks, row after row.

Every measurement is kept as soon as it is done, so a cancelled job loses only the current one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.comparison.contender import Contender
from workbench.comparison.table import Comparison, Row
from workbench.errors import SessionError, is_user_error
from workbench.jobs import benchmark
from workbench.jobs.benchmark import BenchmarkRequest
from workbench.jobs.frozen import with_frozen
from workbench.session.job_table import Cancelled, Handle, Job
from workbench.session.loss_on_axis import FULL
from workbench.session.models import Models

if TYPE_CHECKING:
    from evaluation.model import Loaded
    from workbench.session.session import Session


class Measurement(NamedTuple):
    """One missing measurement.

    Attributes:
        contender: the contender to measure.
        asked: the benchmark, or None for the losses.
    """

    contender: Contender
    asked: BenchmarkRequest | None

    @property
    def what(self) -> str:
        """What is measured: "losses", "benchmark arc, first 50"."""
        if self.asked is None:
            return "losses"
        return self.asked.name + ("" if self.asked.limit is None else f", first {self.asked.limit}")

    @property
    def title(self) -> str:
        """Contender and measurement, for the log."""
        return f"{self.contender.name}: {self.what}"


def submit(
    session: Session,
    comparison: Comparison,
    asked: Iterable[BenchmarkRequest] = (),
    command: str = "",
) -> Job:
    """Starts a job that measures what is missing in a table.

    Args:
        session: with the models that the table was made with.
        comparison: the table.
        asked: benchmarks that every row should have, besides those that some row has.
        command: the command line that does the same.

    Raises:
        SessionError: nothing is missing, or a benchmark cannot be run.
    """
    models = session.models
    todo = missing_measurements(comparison, tuple(asked))
    if not todo:
        raise SessionError(
            "nothing is missing in this table. Name a suite or tasks to measure more."
        )

    # By model, so that each is loaded or copied once for all of its measurements.
    rows: dict[str, list[tuple[int, Measurement]]] = {}
    for position, measurement in enumerate(todo):
        rows.setdefault(measurement.contender.key, []).append((position, measurement))

    def work(handle: Handle) -> str:
        failed: dict[str, list[str]] = {}
        for measurements in rows.values():
            try:
                _measure_row(session, models, handle, measurements, len(todo))
            except Exception as error:
                if not is_user_error(error):
                    raise
                name = measurements[0][1].contender.name
                failed.setdefault(str(error), []).append(name)
                handle.log(f"{name}: {error}")
        # Raised at the end, so that one model that cannot be measured does not stop the others.
        if failed:
            raise SessionError(
                "\n".join(f"{', '.join(names)}: {error}" for error, names in failed.items())
            )
        return f"{len(todo)} measurements"

    title = f"{len(todo)} missing measurements of {len(rows)} models"
    # One key for all tables, because two jobs at once would measure the same losses twice.
    return session.jobs.submit("compare", title, work, key="compare", command=command)


def missing_measurements(
    comparison: Comparison, asked: Sequence[BenchmarkRequest] = ()
) -> list[Measurement]:
    """Returns what is missing, row by row: the losses first, then each benchmark once.

    Args:
        comparison: the table.
        asked: benchmarks that every row should have, besides those that some row has.

    Raises:
        SessionError: a benchmark cannot be run.
    """
    for request in asked:
        request.check()
    missing = []
    for row in comparison.lines:
        if None in row.losses.values():
            missing.append(Measurement(row.contender, None))
        wanted = [
            *_missing_benchmarks(comparison, row),
            *(request for request in asked if not _has(row, request)),
        ]
        missing += [Measurement(row.contender, request) for request in dict.fromkeys(wanted)]
    return missing


def describe(todo: Sequence[Measurement]) -> list[str]:
    """Returns one line for each kind of measurement: "losses: base, ada"."""
    names_of: dict[str, list[str]] = {}
    for measurement in todo:
        names_of.setdefault(measurement.what, []).append(measurement.contender.name)
    return [f"{what}: {', '.join(names)}" for what, names in names_of.items()]


def _missing_benchmarks(comparison: Comparison, row: Row) -> Iterator[BenchmarkRequest]:
    """Yields the benchmarks that other rows have and this one lacks.

    A column that was measured with a suite gives that suite. The other columns give one benchmark
    per limit, with all their tasks.
    """
    tasks: dict[int | None, list[str]] = {}
    for column in (column for column, score in row.scores.items() if score is None):
        others = (other.scores[column] for other in comparison.lines)
        suite = next((score.suite for score in others if score is not None and score.suite), "")
        if suite:
            yield BenchmarkRequest(suite, (), column.limit)
        else:
            tasks.setdefault(column.limit, []).append(column.task)
    for limit, names in tasks.items():
        yield BenchmarkRequest("", tuple(dict.fromkeys(names)), limit)


def _has(row: Row, request: BenchmarkRequest) -> bool:
    """Returns whether a row has the scores of a benchmark."""
    measured = {
        column.task
        for column, score in row.scores.items()
        if score is not None and column.limit == request.limit
    }
    # lm-eval scores a suite as a group of the same name, so that name stands for all its tasks.
    return set(request.tasks or (request.suite,)) <= measured


def _measure_row(
    session: Session,
    models: Models,
    handle: Handle,
    measurements: Sequence[tuple[int, Measurement]],
    count: int,
) -> None:
    """Makes all measurements of one model, which is loaded once.

    Args:
        session: with the open models.
        models: the models that were open when the job was submitted.
        handle: the handle of the job.
        measurements: pairs of the position in the whole job and the measurement.
        count: number of measurements of the whole job.
    """
    contender = measurements[0][1].contender
    recipe = contender.recipe
    with _model(session, models, contender) as (loaded, with_module):
        for position, measurement in measurements:
            handle.check()
            # session.losses composes the models that are open now, and the recipe names those
            # before.
            if session.models is not models:
                raise SessionError("other models were opened meanwhile. Compare again.")
            handle.log(measurement.title)

            # `position` is bound as a default, because a closure would see the loop's last one.
            def progress(done: int, total: int, what: str, position: int = position) -> None:
                handle.progress(position + done / max(total, 1), count, f"{contender.name}: {what}")

            if measurement.asked is not None:
                benchmark.score(
                    session,
                    recipe,
                    measurement.asked,
                    handle,
                    with_module=with_module,
                    tokenizer=loaded.tokenizer,
                    progress=progress,
                )
            else:
                _losses(session, models, contender, loaded, handle)
            handle.progress(position + 1, count, measurement.title)


@contextmanager
def _model(
    session: Session, models: Models, contender: Contender
) -> Iterator[tuple[Loaded, Callable[..., Any]]]:
    """Gives a loaded model and a function that runs work on it, while the block lasts.

    A contender with a folder is loaded from it; any other is composed from the open models.
    """
    if contender.folder is None:
        yield models.loaded, lambda work: with_frozen(session, models, contender.recipe, work)
        return
    from evaluation.model import load
    from merging import Checkpoint

    loaded = load(contender.folder, checkpoint=Checkpoint(contender.folder), device=session.device)
    yield loaded, lambda work: work(loaded.module)


def _losses(
    session: Session, models: Models, contender: Contender, loaded: Loaded, handle: Handle
) -> None:
    """Measures the losses of a contender on every open dataset.

    Raises:
        Cancelled: the user cancelled the job; finished measurements are kept.
        SessionError: the model of a folder has another tokenizer than the base.
    """
    from evaluation.errors import Stopped
    from evaluation.loss import losses

    def stop() -> bool:
        return handle.should_stop

    try:
        if contender.folder is None:
            session.losses(contender.recipe, stale=stop)
            return
        _check_tokenizer(models, contender, loaded)
        with session.spending.tally() as tally:
            for data in models.data.values():
                # A row may lack the losses of some datasets only, for example after a cancelled
                # job.
                if session.book.get(contender.identity, data.keys[FULL]) is not None:
                    continue
                with tally.on(contender.recipe, FULL) as meter:
                    loss = next(iter(losses(loaded.module, data.prepared[FULL], should_stop=stop)))
                    meter.count(loss.n, data.prepared[FULL].positions, loss.tokens)
                session.book.put(contender.identity, data.keys[FULL], loss)
    except Stopped:
        raise Cancelled from None


def _check_tokenizer(models: Models, contender: Contender, loaded: Loaded) -> None:
    """Raises SessionError if a model has another tokenizer than the base.

    Losses per token cannot be compared if the tokens differ.
    """
    # A vocabulary may be equal and the rules differ, so a few prompts are encoded as well.
    mine, other = models.loaded.tokenizer, loaded.tokenizer
    prompts = [
        prompt.written or prompt.text for data in models.data.values() for prompt in data.prompts
    ]
    alike = other is not None and mine.get_vocab() == other.get_vocab()
    if not alike or any(
        mine(prompt)["input_ids"] != other(prompt)["input_ids"] for prompt in prompts
    ):
        raise SessionError(
            f"{contender.name} has another tokenizer than the base, or none, so its loss per "
            "token cannot be compared. Compare its benchmark scores, or copy the base's tokenizer "
            "into its folder."
        )
