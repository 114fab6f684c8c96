"""compare: collects the losses, benchmark scores and costs of all contenders into one table.

It measures nothing. The table names what is missing; workbench.jobs.measure_missing measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.comparison.contender import Contender
from workbench.comparison.contenders import contenders, parse_run_recipe, renewed
from workbench.comparison.costs import recorded_training
from workbench.comparison.table import Cell, Column, Comparison, Expense, Row
from workbench.session.keys import weights_key
from workbench.session.loss_on_axis import FULL
from workbench.session.runs import read_runs

if TYPE_CHECKING:
    from evaluation.records.ledger import Phase
    from evaluation.records.scores import Run
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session


def compare(
    session: Session,
    rows: Sequence[Contender] | None = None,
    current: Recipe | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Returns the table of everything that is known about the contenders.

    Args:
        session: with open models.
        rows: the contenders to compare, or None for all; see contenders.
        current: the composition of the page's standing; used only if `rows` is None.
        notes: notes about the contenders for the user; used only if `rows` is given.
    """
    standing = current or session.recipe(session.standing.omegas, session.standing.choice)
    compared, notes = contenders(session, standing) if rows is None else (tuple(rows), tuple(notes))
    data = session.models.data
    keys = {contender.key for contender in compared}
    # A column that no row has a score for says nothing: its runs belong to other models.
    scores = {
        column: cells
        for column, cells in _scores(
            reversed(read_runs(session.workdir, -1)), session.models
        ).items()
        if keys & cells.keys()
    }
    # Read once for all rows, because a page makes this table whenever its sliders come to rest.
    phases = session.ledger.phases()
    training_costs = _training_costs(phases)
    table_rows = tuple(
        Row(
            contender,
            {
                name: session.book.get(contender.identity, dataset.keys[FULL])
                for name, dataset in data.items()
            },
            {column: cells.get(contender.key) for column, cells in scores.items()},
            _expense(
                contender,
                training_costs,
                [phase for phase in phases if phase.digest == contender.key],
            ),
        )
        for contender in compared
    )
    return Comparison(tuple(data), tuple(scores), table_rows, notes)


def _scores(runs: Iterable[Run], models: Models) -> dict[Column, dict[str, Cell]]:
    """Returns column -> weights key -> newest score; columns in the order of their first run.

    Args:
        runs: oldest first, so that a newer run replaces an older one.
        models: the open models.
    """
    # A page calls this each time its sliders come to rest; most runs share a few recipes.
    keys: dict[str, str] = {}
    columns: dict[Column, dict[str, Cell]] = {}
    for run in runs:
        if run.kind != "bench":
            continue
        if run.recipe_digest not in keys:
            recipe = renewed(models, parse_run_recipe(run.recipe_yaml))
            keys[run.recipe_digest] = weights_key(recipe)
        cells = columns.setdefault(Column(run.task, run.metric, run.limit), {})
        cells[keys[run.recipe_digest]] = Cell(run.value, run.stderr, run.n, run.suite)
    return columns


def _training_costs(phases: Sequence[Phase]) -> dict[str, tuple[float, float]]:
    """Returns folder -> wall and device seconds of the last training that made it."""
    from evaluation.records.ledger import trainings

    return {
        phase.output: (phase.wall_seconds, phase.device_seconds)
        for phase in trainings(phases)
        if phase.output
    }


def _expense(
    contender: Contender,
    training_costs: Mapping[str, tuple[float, float]],
    phases: Sequence[Phase],
) -> Expense:
    """Returns the cost of a contender: the trainings of its folders, and the evaluations.

    Args:
        contender: the contender.
        training_costs: see _training_costs.
        phases: the phases of the ledger whose digest is the contender's key.
    """
    folders = _folders(contender)
    # The ledger comes first: its row may be newer. training.json is copied with the weights, so
    # that a model that was trained elsewhere has its cost as well.
    spent = {
        name: training_costs.get(str(folder)) or _recorded_cost(folder)
        for name, folder in folders.items()
    }
    unknown = tuple(name for name, seconds in spent.items() if seconds is None)
    sums = [math.fsum(seconds[part] for seconds in spent.values() if seconds) for part in (0, 1)]
    # No sum without one of its trainings: the model would look cheaper than it was.
    training: list[float | None] = [None, None] if unknown else [*sums]
    evaluated = [phase for phase in phases if phase.kind in ("evaluation", "merging")]
    walls, devices = (
        [getattr(phase, name) for phase in evaluated] for name in ("wall_seconds", "device_seconds")
    )
    return Expense(training[0], training[1], math.fsum(walls), math.fsum(devices), unknown)


def _folders(contender: Contender) -> dict[str, Path]:
    """Returns the folders whose training went into a contender, by name."""
    from merging.recipe import read_recipe

    recipe = contender.recipe
    # An export was not trained itself: the models that its recipe names were.
    if contender.kind == "export" and contender.folder is not None:
        recipe = read_recipe(contender.folder / "recipe.yml")
    # Some methods list the base as one more model; its training belongs to no contender.
    base = None if recipe.base is None else Path(recipe.base).resolve()
    taking = [source for source in recipe.models if recipe.omegas[source.name] != 0.0]
    folders = {source.name: Path(source.location).resolve() for source in taking}
    return {name: folder for name, folder in folders.items() if folder != base}


def _recorded_cost(folder: Path) -> tuple[float, float] | None:
    """Returns wall and device seconds from the training.json in a folder, or None without one."""
    training = recorded_training(folder)
    return None if training is None else (training.wall_seconds, training.device_seconds)
