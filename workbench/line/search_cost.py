"""How long a search will take, from what was measured of the open models before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workbench.comparison.contenders import fits, parse_run_recipe
from workbench.session.keys import weights_key
from workbench.session.loss_on_axis import FULL
from workbench.session.runs import read_runs
from workbench.session.standing import PLAIN

if TYPE_CHECKING:
    from evaluation.records.scores import Run
    from workbench.search.wanted import TaskAim, Wanted
    from workbench.session.models import Models
    from workbench.session.session import Session


def seconds_of(session: Session, wanted: Wanted) -> float | None:
    """Returns how many seconds the evaluations of a search will take, without opening the models.

    Compositions that were measured before cost nothing, so it may be less.

    Args:
        session: with open models.
        wanted: what is searched for.

    Returns:
        The seconds; None if nothing like it was measured yet.
    """
    bench = wanted.bench
    each = _seconds_of_losses(session) if bench is None else _seconds_of_tasks(session, bench)
    # Another merge method is followed by task arithmetic with the same budget.
    searches = 1 if wanted.merge.method == PLAIN.method else 2
    return None if each is None else searches * wanted.budget * each


def _seconds_of_losses(session: Session) -> float | None:
    """Returns the seconds of one evaluation, from those of the base and of each vector alone.

    It is None if nothing was measured.
    """
    from evaluation.records.prices import LOSSES

    models = session.models
    alone = [models.recipe({}), *(models.recipe({name: 1.0}) for name in models.names)]
    known = {weights_key(recipe) for recipe in alone}
    phases = [
        phase
        for phase in session.ledger.phases("evaluation")
        if phase.name == LOSSES and phase.complete and phase.tokens and phase.digest in known
    ]
    computed = sum(phase.tokens or 0 for phase in phases)
    positions = sum(data.prepared[FULL].positions for data in models.data.values())
    # Where these came with the demo, the speed of what was measured since the models were opened.
    if not computed:
        return session.measuring.throughput(models).seconds(1, positions)
    return positions * sum(phase.wall_seconds for phase in phases) / computed


def _seconds_of_tasks(session: Session, bench: TaskAim) -> float | None:
    """Returns the seconds of one evaluation, from the newest benchmark of the same tasks."""
    # The runs of one measurement have its time, and its end to the millisecond differs.
    newest: dict[str, Run] = {}
    for run in read_runs(session.workdir, -1):
        if _is_one(run, bench) and _is_of(run, session.models):
            newest.setdefault(run.task, run)
    if not newest or (bench.tasks and newest.keys() < set(bench.tasks)):
        return None
    seconds = max(run.seconds for run in newest.values())
    measured = sum(run.n for run in newest.values())
    if not (math.isfinite(seconds) and measured):
        return None
    limit = bench.limit or math.inf
    # A run with a lower limit does not say how many questions there are: then it has too few.
    asked = sum(
        limit if run.limit and limit > run.limit else min(limit, run.n) for run in newest.values()
    )
    return None if math.isinf(asked) else seconds * asked / measured


def _is_one(run: Run, bench: TaskAim) -> bool:
    """Returns whether a run is one of the benchmark's tasks, without the mean of a suite."""
    if run.kind != "bench":
        return False
    if bench.tasks:
        return run.task in bench.tasks
    return run.suite == bench.suite and run.task != bench.suite


def _is_of(run: Run, models: Models) -> bool:
    return fits(models, parse_run_recipe(run.recipe_yaml))
