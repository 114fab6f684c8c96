"""Measures what a comparison lacks, as a job: losses and benchmarks, row after row; what was measured is kept at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.comparison.contender import Contender
from workbench.comparison.table import Comparison, Row
from workbench.errors import SessionError, is_user_error
from workbench.jobs import benchmark
from workbench.jobs.benchmark import Asked
from workbench.session.job_table import Cancelled, Handle, Job
from workbench.session.models import Models
from workbench.session.sizes import FULL

if TYPE_CHECKING:
    from evaluation.model import Loaded
    from workbench.session.session import Session


class Measurement(NamedTuple):
    """One measurement that is missing."""

    contender: Contender
    asked: Asked | None
    """A benchmark; None for the losses."""

    @property
    def what(self) -> str:
        """What is measured: "losses", "benchmark arc, first 50"."""
        if self.asked is None:
            return "losses"
        return self.asked.name + ("" if self.asked.limit is None else f", first {self.asked.limit}")

    @property
    def title(self) -> str:
        """What it is, for the log."""
        return f"{self.contender.name}: {self.what}"


def submit(
    session: Session, comparison: Comparison, asked: Iterable[Asked] = (), command: str = ""
) -> Job:
    """Measure what is missing in a table.

    Args:
        session: with the models that the table was made with.
        comparison: the table; fewer rows, less work.
        asked: benchmarks that every row should have, beside those that some row has.
        command: the command line that does the same.

    Raises:
        SessionError: nothing is missing, or a benchmark that cannot be run.
    """
    models = session.models
    todo = steps(comparison, tuple(asked))
    if not todo:
        raise SessionError(
            "nothing is missing in this table. Name a suite or tasks to measure more."
        )

    rows: dict[str, list[tuple[int, Measurement]]] = {}
    for place, step in enumerate(todo):
        rows.setdefault(step.contender.key, []).append((place, step))

    def work(handle: Handle) -> str:
        failed: dict[str, list[str]] = {}
        for mine in rows.values():
            try:
                _row(session, models, handle, mine, len(todo))
            except Exception as error:
                if not is_user_error(error):
                    raise
                name = mine[0][1].contender.name
                failed.setdefault(str(error), []).append(name)
                handle.log(f"{name}: {error}")
        if failed:  # at the end: one model that cannot be measured keeps none of the others from it
            raise SessionError(
                "\n".join(f"{', '.join(names)}: {error}" for error, names in failed.items())
            )
        return f"{len(todo)} measurements"

    title = f"{len(todo)} missing measurements of {len(rows)} models"
    return session.jobs.submit("compare", title, work, key="compare", command=command)


def steps(comparison: Comparison, asked: Sequence[Asked] = ()) -> list[Measurement]:
    """What is missing, row by row: losses first, then each benchmark once.

    Raises:
        SessionError: a benchmark that cannot be run.
    """
    for one in asked:
        one.check()
    found = []
    for line in comparison.lines:
        if None in line.losses.values():
            found.append(Measurement(line.contender, None))
        wanted = [*_of_columns(comparison, line), *(one for one in asked if not _has(line, one))]
        found += [Measurement(line.contender, one) for one in dict.fromkeys(wanted)]
    return found


def in_words(todo: Sequence[Measurement]) -> list[str]:
    """What is missing, a line for each kind of measurement: "losses: base, ada"."""
    found: dict[str, list[str]] = {}
    for step in todo:
        found.setdefault(step.what, []).append(step.contender.name)
    return [f"{what}: {', '.join(names)}" for what, names in found.items()]


def _of_columns(comparison: Comparison, line: Row) -> Iterator[Asked]:
    """The benchmarks that other rows have: by their suite where they had one, else all tasks of one limit together."""
    tasks: dict[int | None, list[str]] = {}
    for column in (column for column, score in line.scores.items() if score is None):
        others = (other.scores[column] for other in comparison.lines)
        suite = next((score.suite for score in others if score is not None and score.suite), "")
        if suite:
            yield Asked(suite, (), column.limit)
        else:
            tasks.setdefault(column.limit, []).append(column.task)
    for limit, names in tasks.items():
        yield Asked("", tuple(dict.fromkeys(names)), limit)


def _has(line: Row, asked: Asked) -> bool:
    """Whether a row has the scores of a benchmark."""
    known = {
        column.task
        for column, score in line.scores.items()
        if score is not None and column.limit == asked.limit
    }
    return set(asked.tasks or (asked.suite,)) <= known


def _row(
    session: Session,
    models: Models,
    handle: Handle,
    mine: Sequence[tuple[int, Measurement]],
    count: int,
) -> None:
    """The measurements of one model, which is loaded once."""
    contender = mine[0][1].contender
    recipe = contender.recipe
    with _model(session, models, contender) as (loaded, with_module):
        for place, step in mine:
            handle.check()
            if session.models is not models:
                raise SessionError("other models were opened meanwhile. Compare again.")
            handle.log(step.title)

            def progress(
                done: int, total: int, what: str, place: int = place, step: Measurement = step
            ) -> None:
                handle.progress(
                    place + done / max(total, 1), count, f"{step.contender.name}: {what}"
                )

            if step.asked is not None:
                benchmark.score(
                    session,
                    recipe,
                    step.asked,
                    handle,
                    with_module=with_module,
                    tokenizer=loaded.tokenizer,
                    progress=progress,
                )
            else:
                _losses(session, models, contender, loaded, handle)
            handle.progress(place + 1, count, step.title)


@contextmanager
def _model(
    session: Session, models: Models, contender: Contender
) -> Iterator[tuple[Loaded, Callable[..., Any]]]:
    """A loaded model and how to run work on it: what is open, composed; or the one of a folder, for the block only."""
    if contender.folder is None:
        yield models.loaded, lambda work: session.with_frozen(models, contender.recipe, work)
        return
    from evaluation.model import load
    from merging import Checkpoint

    loaded = load(contender.folder, checkpoint=Checkpoint(contender.folder), device=session.device)
    yield loaded, lambda work: work(loaded.module)


def _losses(
    session: Session, models: Models, contender: Contender, loaded: Loaded, handle: Handle
) -> None:
    """The losses on every dataset of what is open.

    Raises:
        Cancelled: someone asked the job to stop; what was measured before is kept.
        SessionError: the model of a folder reads the data as other tokens.
    """
    from evaluation.errors import Stopped
    from evaluation.loss import losses

    def stop() -> bool:
        return handle.should_stop

    try:
        if contender.folder is None:
            session.losses(contender.recipe, stale=stop)
            return
        _same_tokens(models, contender, loaded)
        with session.spending.tally() as tally:
            for data in models.data.values():
                if session.book.get(contender.identity, data.keys[FULL]) is not None:
                    continue
                with tally.on(contender.recipe, FULL) as meter:
                    found = next(iter(losses(loaded.module, data.prepared[FULL], should_stop=stop)))
                    meter.count(found.n, data.prepared[FULL].positions, found.tokens)
                session.book.put(contender.identity, data.keys[FULL], found)
    except Stopped:
        raise Cancelled from None


def _same_tokens(models: Models, contender: Contender, loaded: Loaded) -> None:
    """Refuse a model with another tokenizer: losses per token of different tokens cannot be compared."""
    mine, other = models.loaded.tokenizer, loaded.tokenizer
    prompts = [prompt for data in models.data.values() for prompt in data.prompts]
    alike = other is not None and mine.get_vocab() == other.get_vocab()
    if not alike or any(
        mine(prompt)["input_ids"] != other(prompt)["input_ids"] for prompt in prompts
    ):
        raise SessionError(
            f"{contender.name} reads text as other tokens than the base, or has no tokenizer: its loss per token cannot be "
            "compared with the others. Compare its benchmark scores, or copy the base's tokenizer into its folder."
        )
