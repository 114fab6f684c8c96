"""Benchmarks as the aim of a search: real runs of lm-eval, kept as runs, never repeated."""

import math
from dataclasses import replace

import pytest

from evaluation.errors import TaskError
from evaluation.records.scores import RunStore
from workbench.errors import SessionError
from workbench.search.running import Search
from workbench.search.wanted import TaskAim, Wanted

BENCH = TaskAim(tasks=("demo_cot", "demo_sni"), limit=4)
SCORE = Wanted(aim="score", bench=BENCH, method="greedy", levels=2, budget=4, limited=False)


def searched(session, wanted=SCORE):
    found = Search(session, session.models, wanted)
    return found, [step.trial for step in found.steps()]


def stored(session):
    with RunStore(session.workdir.runs) as store:
        return store.runs()


def test_the_mean_score_is_maximised_and_every_score_is_a_run(session):
    found, trials = searched(session)
    assert len(trials) == 4 and found.points.measured == 3  # the first one is the base
    for trial in trials:
        runs = {  # each task of the suite has one metric
            run.task: run.value
            for run in stored(session)
            if run.recipe_digest == found.recipe_of(trial).digest
        }
        assert trial.measured.losses == {task: -value for task, value in runs.items()}
        assert trial.score == pytest.approx(-sum(runs.values()) / 2)
    assert found.best.score == min(trial.score for trial in trials)
    assert SCORE.words(-0.25) == "mean score 0.2500"
    assert SCORE.words(0.0) == "mean score 0.0000"


def test_run_again_it_measures_nothing_and_another_limit_is_another_measurement(session):
    first, trials = searched(session, replace(SCORE, budget=2))
    count = len(stored(session))
    again, same = searched(session, replace(SCORE, budget=2))
    assert same == trials and again.points.measured == 0 and len(stored(session)) == count
    other, _ = searched(session, replace(SCORE, budget=2, bench=replace(BENCH, limit=3)))
    assert other.points.measured == 1 and len(stored(session)) > count
    whole = first.points.on_all()
    assert whole.on_all() is None
    rows = whole.table(first.recipe_of(first.best))
    assert [row.task for row in rows] == ["demo_cot", "demo_sni"]


def test_a_suite_has_its_tasks_and_errors_are_those_of_both_scores(session):
    found, trials = searched(
        session, replace(SCORE, budget=2, bench=TaskAim(suite="demo", limit=3), limited=True)
    )
    tasks = {"demo_cot", "demo_dialog", "demo_mathqa", "demo_p3", "demo_sni"}
    assert set(trials[0].measured.losses) == tasks
    rows = {row.task: row for row in found.points.table(found.recipe_of(trials[1]))}
    runs = {(run.task, run.recipe_digest): run.stderr for run in stored(session)}
    base = session.recipe({}).digest
    here = found.recipe_of(trials[1]).digest
    for task in tasks:
        both = math.hypot(runs[task, base], runs[task, here])
        assert rows[task].error == pytest.approx(both)


def test_perplexity_is_minimised(session, monkeypatch):
    monkeypatch.setattr("evaluation.benchmark_scores.LOWER", ("exact_match", "acc"))
    _, trials = searched(session, replace(SCORE, budget=1))
    assert all(loss >= 0 for loss in trials[0].measured.losses.values())


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"bench": None}, "Give --aim score with --tasks A,B or --suite NAME"),
        ({"aim": "loss"}, "a benchmark with the aim score"),
        ({"bench": TaskAim()}, "give either tasks or a suite"),
        ({"bench": replace(BENCH, suite="demo")}, "give either tasks or a suite"),
        ({"method": "gradient"}, "neither derivatives nor losses"),
        ({"screened": True}, "neither derivatives nor losses"),
    ],
)
def test_what_does_not_fit_is_refused(wanted, words):
    with pytest.raises(SessionError, match=words):
        replace(SCORE, **wanted)


def test_an_unknown_task_and_workers_are_refused_before_anything_is_measured(session):
    with pytest.raises(TaskError, match="demo_cott"):
        Search(session, session.models, replace(SCORE, bench=TaskAim(tasks=("demo_cott",))))
    with pytest.raises(SessionError, match="workers measure losses, and the aim is a benchmark"):
        Search(session, session.models, SCORE, executor=object())
    assert not session.workdir.runs.exists()
