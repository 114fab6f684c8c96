"""A search learns from what others measured before, and knows the same when it is run again."""

from dataclasses import replace

import pytest

from workbench.errors import SessionError
from workbench.search.points import Points
from workbench.search.prior import known_before
from workbench.search.region import Region
from workbench.search.running import Search
from workbench.search.wanted import Wanted
from workbench.session.loss_on_axis import FULL

LOSS = Wanted(aim="loss", limited=False, budget=9, low=-1.0)


def prior(session, wanted=LOSS):
    region = Region.of(session.models, wanted)
    return known_before(session, session.models, wanted, region)


def searched(session, wanted):
    found = Search(session, session.models, wanted)
    return found, [step.trial for step in found.steps()]


def test_it_knows_what_sliders_measured_with_derivatives_where_they_are_known(session):
    Points(session, session.models).measure({"ada": 0.3, "bob": 0.1}, True, lambda: False)
    losses = session.losses(session.recipe({"lora": 0.7}), FULL)
    known = {tuple(point.values()): measured for point, measured in prior(session)}
    assert known.keys() == {(0.3, 0.1, 0.0), (0.0, 0.0, 0.7)}
    assert known[0.3, 0.1, 0.0].gradients.keys() == set(session.models.data)
    assert known[0.0, 0.0, 0.7].gradients is None
    assert known[0.0, 0.0, 0.7].losses == {name: loss.value for name, loss in losses.items()}


def test_a_search_begins_where_others_have_ended(session):
    first, trials = searched(session, LOSS)
    again, more = searched(session, replace(LOSS, seed=1))
    assert again.best.score <= first.best.score
    points = {tuple(trial.point.values()) for trial in trials}
    assert not points & {tuple(trial.point.values()) for trial in more}
    # One that is alone does as the first one did, and reads what that has measured.
    alone, same = searched(session, replace(LOSS, seed=1, alone=True))
    assert same[0].point == trials[0].point
    assert alone.points.measured < len(same)


def test_the_same_search_knows_the_same_when_it_is_run_again(session):
    session.losses(session.recipe({"ada": 0.2}), FULL)
    _, trials = searched(session, LOSS)
    # Meanwhile others measure more, also the derivatives of what was known.
    Points(session, session.models).measure({"ada": 0.2}, True, lambda: False)
    session.losses(session.recipe({"bob": -0.4, "ada": 0.1}), FULL)
    again, same = searched(session, LOSS)
    assert same == trials and again.points.measured == 0
    longer, more = searched(session, replace(LOSS, budget=12))
    assert more[: len(trials)] == trials and longer.points.measured == len(more) - len(trials)


def test_groups_learn_from_whole_vectors(session):
    Points(session, session.models).measure({"ada": 0.3, "bob": 0.1}, True, lambda: False)
    ((point, measured),) = prior(session, replace(LOSS, groups="depth"))
    assert {point[name] for name in point if name.startswith("ada")} == {0.3}
    assert measured.gradients is None


def test_a_damaged_list_is_named(session):
    prior(session)
    (file,) = session.workdir.known.glob("*.json")
    file.write_text("{")
    with pytest.raises(SessionError, match=r"known.* is damaged. Delete it"):
        prior(session)
