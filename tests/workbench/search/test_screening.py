"""Few examples first: what is given up is worse, what may be the best is measured, and it is cheaper."""

import math
from dataclasses import replace

import numpy as np
import pytest

from workbench.errors import SessionError
from workbench.search.outcome import as_data
from workbench.search.running import Search
from workbench.search.screening import FEWEST, few_of
from workbench.search.wanted import Wanted
from workbench.session.loss_on_axis import FULL, QUICK

LOSS = Wanted(aim="loss", limited=False, method="greedy", levels=4, low=-1.0, budget=12)


def searched(session, wanted):
    found = Search(session, session.models, wanted)
    list(found.steps())
    return found


def test_a_quarter_and_at_least_eight_examples_are_the_few():
    assert [few_of(n) for n in (3, 8, 20, 32, 40, 200)] == [3, 8, 8, 8, 10, 50]
    assert FEWEST == 8


def test_what_is_given_up_is_worse_and_costs_a_part(session):
    found = searched(session, replace(LOSS, screened=True))
    whole = searched(session, replace(LOSS, budget=len(found.searcher.trials), alone=True))
    given_up = [trial for trial in found.searcher.trials if trial.measured is None]
    assert len(given_up) >= 3 and all(trial.score < math.inf for trial in given_up)
    kept = len(found.searcher.trials) - len(given_up)
    # The first point has nothing to be compared with.
    share = found._screening.cost
    assert 0.2 < share < 0.5
    assert found.spent == pytest.approx(kept + share * len(found.searcher.trials), abs=share)
    # As good as with all examples of every point, for less.
    assert found.best.score == whole.best.score and found.spent < whole.spent
    for trial in given_up:
        losses = session.losses(found.recipe_of(trial), FULL)
        true = np.mean([loss.value for loss in losses.values()])
        assert true > found.best.score
        assert trial.score == pytest.approx(true, rel=0.05)


def test_the_expected_score_is_the_best_plus_the_paired_differences(session):
    found = searched(session, replace(LOSS, screened=True))
    models, screening, best = found._models, found._screening, found.best
    recipe = found.recipe_of(next(each for each in found.searcher.trials if not each.measured))
    few = session.measuring.on_all(models, recipe, QUICK)
    gaps = []
    for name, data in models.data.items():
        of_best = session.book.get(models.identity(found.recipe_of(best)), data.keys[FULL])
        n = len(few[name].sums)
        assert n == few_of(23)
        gaps.append((sum(few[name].sums) - sum(of_best.sums[:n])) / sum(of_best.counts[:n]))
    score = screening.given_up(recipe, best, found.recipe_of(best), lambda: False)
    assert score == pytest.approx(best.score + np.mean(gaps))
    # The best itself is not worse than the best.
    same = screening.given_up(found.recipe_of(best), best, found.recipe_of(best), lambda: False)
    assert same is None


def test_run_again_it_measures_nothing_and_its_data_say_what_was_given_up(session, monkeypatch):
    first = searched(session, replace(LOSS, screened=True))
    monkeypatch.setattr(
        "evaluation.loss.Sweep.step", lambda *values, **more: pytest.fail("measured again")
    )
    again = searched(session, replace(LOSS, screened=True))
    assert again.searcher.trials == first.searcher.trials and again.spent == first.spent
    rows = as_data(again)
    assert {row["losses"] is None for row in rows} == {True, False}
    assert all(row["score"] is not None for row in rows)


def test_it_does_not_go_with_workers(session):
    with pytest.raises(SessionError, match="--few-first compares each point with the best so far"):
        Search(session, session.models, replace(LOSS, screened=True), executor=object())
