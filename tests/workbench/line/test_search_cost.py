"""The expected seconds of a search, worked by hand from what the ledger and the runs hold."""

import pytest

from evaluation.benchmark_scores import Score
from workbench.line.search_cost import seconds_of
from workbench.search.wanted import TaskAim, Wanted
from workbench.session.keys import weights_key
from workbench.session.loss_on_axis import FULL
from workbench.session.runs import keep_scores
from workbench.session.standing import Choice


def spent(session, recipe, seconds, tokens, **more):
    session.ledger.add(
        "evaluation",
        "losses",
        wall_seconds=seconds,
        device_seconds=seconds,
        tokens=tokens,
        digest=weights_key(recipe),
        **more,
    )


def test_losses_cost_what_those_of_the_base_and_the_vectors_did(session):
    assert seconds_of(session, Wanted(budget=10)) is None
    positions = sum(data.prepared[FULL].positions for data in session.models.data.values())
    # The base and the vectors may have come with the demo; then the speed of anything else counts.
    speed = session.measuring.throughput(session.models)
    speed.composed(1.0)
    speed.measured(100, 2.0)
    assert seconds_of(session, Wanted(budget=10)) == pytest.approx(10 * (1 + positions / 50))
    spent(session, session.recipe({}), 3.0, positions)
    assert seconds_of(session, Wanted(budget=10)) == pytest.approx(30.0)
    # Another merge method is followed by task arithmetic with the same budget.
    ties = Wanted(budget=10, merge=Choice("ties"), vary={"density": None})
    assert seconds_of(session, ties) == pytest.approx(60.0)
    # Two thirds of a sweep in one second more: 4 s for 5/3 sweeps.
    spent(session, session.recipe({"ada": 1.0}), 1.0, 2 * positions // 3)
    each = 4.0 * positions / (positions + 2 * positions // 3)
    assert seconds_of(session, Wanted(budget=10)) == pytest.approx(10 * each)
    # Other compositions, perhaps of other models, and broken sweeps say nothing.
    spent(session, session.recipe({"ada": 0.37}), 900.0, positions)
    spent(session, session.recipe({"bob": 1.0}), 900.0, positions, complete=False)
    assert seconds_of(session, Wanted(budget=5)) == pytest.approx(5 * each)


def scored(session, suite, limit, seconds, **counts):
    scores = [Score(task, "acc", 0.5, 0.1, n, seconds) for task, n in counts.items()]
    keep_scores(session.workdir, session.recipe({}), scores, suite=suite, limit=limit)


def test_benchmarks_cost_what_the_newest_of_the_same_tasks_did(session):
    def cost(limit=None, budget=4, **bench):
        return seconds_of(
            session,
            Wanted(aim="score", method="tpe", budget=budget, bench=TaskAim(**bench, limit=limit)),
        )

    assert cost(suite="demo") is None and cost(tasks=("one",)) is None
    scored(session, "demo", 20, 8.0, one=20, two=20, demo=40)
    assert cost(20, suite="demo") == pytest.approx(4 * 8.0)
    assert cost(5, suite="demo") == pytest.approx(4 * 2.0)
    # How many questions there are beyond the first 20 is not known.
    assert cost(50, suite="demo") == pytest.approx(4 * 20.0)
    assert cost(20, tasks=("one", "three")) is None
    scored(session, "demo", None, 30.0, one=100, two=50, demo=150)
    assert cost(suite="demo") == pytest.approx(4 * 30.0)
    assert cost(60, suite="demo") == pytest.approx(4 * 30.0 * 110 / 150)
