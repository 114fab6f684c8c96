"""How sure a search's best is: paired errors, the dataset that is to blame, and what it would need."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.search import Measured, Trial
from workbench.search.paired import difference, paired_errors
from workbench.search.ranking import APART, _of, ranking
from workbench.search.running import Search
from workbench.search.wanted import Wanted

HALF = {"cot": 0.5, "p3": 0.5}


def entry(sums, counts=None):
    counts = counts or [1] * len(sums)
    return SimpleNamespace(sums=tuple(sums), counts=tuple(counts), n=len(sums))


def trials(gap):
    losses = {"cot": 0.0, "p3": 0.0}
    return Trial({"a": 0.5}, gap, Measured(losses)), Trial({"a": 0.0}, 0.0, Measured(losses))


def compared(gap, pairs):
    errors = {name: difference(*pair)[1] for name, pair in pairs.items()}
    return _of(*trials(gap), HALF, errors, {name: pair[0].n for name, pair in pairs.items()})


def test_the_error_is_that_of_the_paired_differences():
    # Examples of very different difficulty, on which the other one is worse by 0.1 ± 0.02.
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 10, 50)
    other = base + 0.1 + 0.02 * rng.normal(size=50)
    pairs = {"cot": [entry(other), entry(base)], "p3": [entry(base), entry(base)]}
    found = compared(0.05, pairs)
    error = 0.5 * np.std(other - base, ddof=1) / math.sqrt(50)
    assert found.error == pytest.approx(error) and found.dataset == "cot" and found.sure
    assert "better than the next different one by 0.0500" in found.words()


def test_the_needed_examples_make_the_gap_two_errors_wide():
    # Differences ±1 on 100 examples: a standard error of 0.1005, which counts half.
    noisy = [1.0, -1.0] * 50
    pairs = {"cot": [entry(noisy), entry([0.0] * 100)], "p3": [entry([0.0]), entry([0.0])]}
    found = compared(0.02, pairs | {"p3": [entry([0.0] * 9)] * 2})
    assert not found.sure and found.examples == 100
    share = found.error**2 * 100 / found.needed
    assert 2 * math.sqrt(share) == pytest.approx(0.02, rel=1e-2)
    assert f"cot has too few examples to rank them: 100, and it would need about {found.needed:,}" in found.words()  # fmt: skip


def test_equal_ones_need_no_number():
    noisy = [1.0, -1.0] * 50
    pairs = {"cot": [entry(noisy), entry([0.0] * 100)], "p3": [entry(noisy), entry([0.0] * 100)]}
    for gap in (0.0, 1e-6, 0.1):  # both datasets are at fault, so neither alone can help
        found = compared(gap, pairs)
        assert found.needed is None and not found.sure
        assert found.words().startswith("The next different one is as good within the error")


def test_a_search_compares_its_best_with_one_that_is_different(session):
    search = Search(
        session,
        session.models,
        Wanted(aim="loss", limited=False, method="coordinate", budget=8),
    )
    list(search.steps())
    found = ranking(search, session, session.models)
    best = search.best
    assert any(abs(found.other[name] - best.point[name]) > APART for name in best.point)
    assert found.gap >= 0 and found.error > 0 and found.dataset in session.models.data
    fresh = Search(session, session.models, Wanted(aim="loss"))
    assert ranking(fresh, session, session.models) is None


def test_a_dataset_may_be_worse_than_the_base_by_its_error(session):
    """Small ω of random vectors make some losses a little worse, surely or by chance."""
    from evaluation.search.objective import PENALTY

    models = session.models
    limited = Search(
        session,
        models,
        Wanted(aim="loss", low=-0.05, high=0.05, method="grid", levels=2, budget=8),
    )
    trials = [step.trial for step in limited.steps()]
    base = {name: start.value for name, (start, _) in limited.ends.items()}
    beyond = 0
    for trial in trials:
        errors = paired_errors(session, models, limited.recipe_of(trial), models.recipe({}))
        losses = trial.measured.losses
        over = {name: losses[name] - base[name] - errors[name] for name in losses}
        units = limited.objective.units
        wanted = np.mean(list(losses.values())) + PENALTY * sum(
            max(0.0, value) / units[name] for name, value in over.items()
        )
        assert trial.score == pytest.approx(wanted)
        beyond += sum(0 < losses[name] - base[name] <= errors[name] for name in losses)
    assert beyond, "no loss was above the base within its error, so nothing was tested"
    assert paired_errors(session, models, models.recipe({"ada": 0.123}), models.recipe({})) is None
