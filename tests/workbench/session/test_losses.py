"""Losses by composition: each is composed once, and the few first examples are a part of all."""

import pytest

from evaluation.errors import Stopped
from evaluation.loss import Sweep
from merging.live.live_model import LiveModel
from tests.workbench.conftest import NAMES
from workbench.line.answers import Answer
from workbench.line.contract import Wish
from workbench.session.loss_on_axis import FULL, QUICK

OMEGAS = {"ada": 0.3, "bob": -0.2, "lora": 0.6}


@pytest.fixture
def composed(monkeypatch):
    """The recipes that were composed, in their order."""
    recipes, apply = [], LiveModel.apply

    def counted(live, recipe, *more):
        recipes.append(recipe)
        return apply(live, recipe, *more)

    monkeypatch.setattr(LiveModel, "apply", counted)
    return recipes


@pytest.fixture
def computed(monkeypatch):
    """The number of token positions of each step of a sweep."""
    positions, step = [], Sweep.step

    def counted(sweep, *more):
        before = sweep.positions
        found = step(sweep, *more)
        positions.append(sweep.positions - before)
        return found

    monkeypatch.setattr(Sweep, "step", counted)
    return positions


def messages(session, omegas):
    """What a page is told of its losses, until all are exact."""
    models = session.models
    wish = Wish("page-1234", 1, models.key, "task_arithmetic", {}, omegas)
    for _, steps in Answer(session, wish, None, lambda: False).phases():
        for message in steps:
            if message and message["stage"] in ("quick", "full"):
                yield message
                if message["whole"]:
                    return


def positions_of(session, names, size):
    return sum(session.models.data[name].prepared[size].positions for name in names)


def measured(session, recipe, size, stale=lambda: False):
    with session.spending.tally() as tally:
        updates = session.measuring.steps(session.models, recipe, size, stale, tally)
        return [update for update in updates if update]


def test_a_fresh_page_composes_each_composition_once(session, composed, computed):
    *_, last = messages(session, OMEGAS)
    assert last["whole"]
    models = session.models
    wanted = [OMEGAS, {}, *({name: 1.0} for name in NAMES)]
    assert [recipe.digest for recipe in composed] == [models.recipe(each).digest for each in wanted]
    # The composition and the base on all datasets, each expert on its own; nothing twice.
    assert sum(computed) == 3 * positions_of(session, NAMES, FULL)


def test_a_page_says_how_far_it_is_and_never_exact_before_it_is(session):
    seen = list(messages(session, OMEGAS))
    assert seen[0]["stage"] == "quick" and seen[0]["measuring"] is None
    assert all(point["quick"] and not point["ends"] for point in seen[0]["points"].values())
    assert all(point["share"] is None for point in seen[0]["points"].values())
    far = [message["measuring"] for message in seen if message["measuring"]]
    assert [each["composition"] for each in far] == sorted(each["composition"] for each in far)
    assert far[0]["composition"] == 1 and far[-1]["composition"] == 5
    assert {each["compositions"] for each in far} == {5}
    assert all(each["seconds"] >= 0 for each in far) and far[-1]["seconds"] < far[0]["seconds"]
    assert [message["whole"] for message in seen] == [False] * (len(seen) - 1) + [True]
    for message in seen[:-1]:
        assert not all(point["ends"] and not point["quick"] for point in message["points"].values())


def test_the_next_move_composes_itself_only(session, composed):
    list(messages(session, OMEGAS))
    composed.clear()
    moved = OMEGAS | {"ada": 0.31}
    first, *_, last = messages(session, moved)
    assert len(composed) == 1 and last["whole"]
    # The ends of the axes of a few examples are known from those of all.
    assert all(point["quick"] and point["ends"] for point in first["points"].values())


def test_a_composition_that_is_an_end_itself_is_measured_once(session, composed, computed):
    list(messages(session, dict.fromkeys(NAMES, 0.0)))
    assert len(composed) == 4  # the base, and three experts
    assert sum(computed) == 2 * positions_of(session, NAMES, FULL)
    list(messages(session, {"ada": 1.0, "bob": 0.0, "lora": 0.0}))
    assert len(composed) == 5
    others = positions_of(session, ["bob", "lora"], FULL)
    assert sum(computed) == 2 * positions_of(session, NAMES, FULL) + others


def test_quick_losses_are_a_part_of_the_full_ones(session, computed):
    recipe = session.recipe(OMEGAS)
    few = session.losses(recipe, QUICK)
    assert sum(computed) == positions_of(session, NAMES, QUICK)
    whole = session.losses(recipe, FULL)
    assert sum(computed) == positions_of(session, NAMES, FULL)
    for name in NAMES:
        assert few[name].n < whole[name].n
        assert whole[name].sums[: few[name].n] == few[name].sums
        assert whole[name].counts[: few[name].n] == few[name].counts
    assert session.losses(recipe, QUICK) == few and sum(computed) == positions_of(
        session, NAMES, FULL
    )


def test_quick_losses_are_read_from_the_full_ones(session, computed):
    """The same bits, whichever was measured first."""
    recipe, twin = session.recipe(OMEGAS), session.recipe({"ada": 0.9})
    whole = session.losses(recipe, FULL)
    done = sum(computed)
    few = session.losses(recipe, QUICK)
    assert sum(computed) == done
    assert {name: loss.n for name, loss in few.items()} == {
        name: session.models.data[name].prepared[QUICK].datasets[0].n for name in NAMES
    }
    assert all(few[name].sums == whole[name].sums[: few[name].n] for name in NAMES)
    assert session.losses(twin, QUICK) != few and sum(computed) > done  # the twin is measured


def test_what_an_overtaken_measurement_finished_is_kept(session, computed):
    recipe = session.recipe(OMEGAS)

    def kept():
        known = session.measuring.known
        return [name for name in NAMES if known.loss(session.models, recipe, name, FULL)]

    measured(session, recipe, QUICK)
    with pytest.raises(Stopped):
        measured(session, recipe, FULL, lambda: bool(kept()))
    before, done = sum(computed), kept()
    assert done
    *_, last = measured(session, recipe, FULL)
    assert all(point.exact for point in last.points.values()) and last.measuring is None
    left = [name for name in NAMES if name not in done]
    rest = positions_of(session, left, FULL) - positions_of(session, left, QUICK)
    assert sum(computed) - before == rest + 2 * positions_of(session, NAMES, FULL)


def test_losses_of_an_older_version_have_no_examples_and_are_taken_as_they_are(session, computed):
    models, recipe = session.models, session.recipe(OMEGAS)
    whole = session.losses(recipe, FULL)
    with session.book._database.writing() as connection:
        connection.execute("DELETE FROM examples")
    done = sum(computed)
    assert session.losses(recipe, FULL)["ada"].value == whole["ada"].value
    assert sum(computed) == done
    assert session.measuring.known.loss(models, recipe, "ada", QUICK) is None
