"""All checkpoints and compositions side by side: losses, benchmark scores and cost, from what was measured before.

Nothing is measured here. What is missing is named, and workbench.jobs.measure_missing measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.comparison.contender import Contender
from workbench.comparison.contenders import contenders, parsed
from workbench.comparison.costs import recorded
from workbench.comparison.table import Cell, Column, Comparison, Expense, Row
from workbench.session.keys import weights_key
from workbench.session.runs import read_runs
from workbench.session.sizes import FULL

if TYPE_CHECKING:
    from evaluation.records.ledger import Phase
    from evaluation.records.scores import Run
    from merging.recipe import Recipe
    from workbench.session.session import Session


def compare(
    session: Session,
    rows: Sequence[Contender] | None = None,
    current: Recipe | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Put what is known side by side.

    Args:
        session: with open models.
        rows: what to compare; all that can be if not given.
        current: the composition that a page stands at, where `rows` are not given.
        notes: what a reader should know of the rows, where they are given.
    """
    standing = current or session.recipe(session.standing.omegas, session.standing.choice)
    chosen, notes = contenders(session, standing) if rows is None else (tuple(rows), tuple(notes))
    data = session.models.data
    keys = {contender.key for contender in chosen}
    scores = {
        column: known
        for column, known in _scores(reversed(read_runs(session.workdir, -1))).items()
        if keys & known.keys()
    }
    phases = session.ledger.phases()
    trained = _trained(phases)
    lines = tuple(
        Row(
            contender,
            {
                name: session.book.get(contender.identity, one.keys[FULL])
                for name, one in data.items()
            },
            {column: known.get(contender.key) for column, known in scores.items()},
            _expense(
                contender, trained, [phase for phase in phases if phase.digest == contender.key]
            ),
        )
        for contender in chosen
    )
    return Comparison(tuple(data), tuple(scores), lines, notes)


def _scores(runs: Iterable[Run]) -> dict[Column, dict[str, Cell]]:
    """By column, in the order in which they were first measured, and by composition the newest score.

    Args:
        runs: oldest first.
    """
    keys: dict[str, str] = {}
    found: dict[Column, dict[str, Cell]] = {}
    for run in runs:
        if run.kind != "bench":
            continue
        if run.recipe_digest not in keys:
            keys[run.recipe_digest] = weights_key(parsed(run.recipe_yaml))
        of_column = found.setdefault(Column(run.task, run.metric, run.limit), {})
        of_column[keys[run.recipe_digest]] = Cell(run.value, run.stderr, run.n, run.suite)
    return found


def _trained(phases: Sequence[Phase]) -> dict[str, tuple[float, float]]:
    """Wall and device seconds of the last training that made a folder."""
    from evaluation.records.ledger import trainings

    return {
        made.output: (made.wall_seconds, made.device_seconds)
        for made in trainings(phases)
        if made.output
    }


def _expense(
    contender: Contender, trained: Mapping[str, tuple[float, float]], phases: Sequence[Phase]
) -> Expense:
    """Trainings by the folders that take part, and what was spent on evaluating these weights."""
    folders = _folders(contender)
    spent = {name: trained.get(str(folder)) or _beside(folder) for name, folder in folders.items()}
    unknown = tuple(name for name, seconds in spent.items() if seconds is None)
    sums = [math.fsum(seconds[part] for seconds in spent.values() if seconds) for part in (0, 1)]
    training: list[float | None] = [None, None] if unknown else [*sums]
    evaluated = [phase for phase in phases if phase.kind in ("evaluation", "merging")]
    walls, devices = (
        [getattr(phase, name) for phase in evaluated] for name in ("wall_seconds", "device_seconds")
    )
    return Expense(training[0], training[1], math.fsum(walls), math.fsum(devices), unknown)


def _folders(contender: Contender) -> dict[str, Path]:
    """The folders whose training went into a contender, by name; of an export those that its recipe names."""
    from merging.recipe import read_recipe

    recipe = contender.recipe
    if contender.kind == "export" and contender.folder is not None:
        recipe = read_recipe(contender.folder / "recipe.yml")
    base = None if recipe.base is None else Path(recipe.base).resolve()
    taking = [source for source in recipe.models if recipe.omegas[source.name] != 0.0]
    places = {source.name: Path(source.location).resolve() for source in taking}
    return {name: place for name, place in places.items() if place != base}


def _beside(folder: Path) -> tuple[float, float] | None:
    """What the training.json beside the weights says that they cost; None where it says nothing."""
    found = recorded(folder)
    return None if found is None else (found.wall_seconds, found.device_seconds)
