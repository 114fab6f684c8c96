"""The folder of a search: whole progress, damaged files, living and dead processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from merging.recipe import read_recipe
from workbench.search.paired import paired_errors
from workbench.search.record import ABOUT, LOG, PROGRESS, RESULT, TRIALS, Progress, SearchRecord
from workbench.search.running import Search
from workbench.search.wanted import Wanted
from workbench.session.standing import Choice


def test_progress_is_what_was_written_last(tmp_path):
    record = SearchRecord(tmp_path)
    assert record.progress() is None and record.result() is None
    for spent in (3, 6):
        record.write(Progress(spent, 40, 2, "mean share 41.0 %", {"cot": 0.5}))
    assert record.progress() == Progress(6, 40, 2, "mean share 41.0 %", {"cot": 0.5})
    record.begin(os.getpid())
    assert record.progress() is None  # a search that begins again has measured nothing yet


def test_damaged_files_are_none(tmp_path):
    record = SearchRecord(tmp_path)
    for text in ("", "{", '{"other": 1}', "[]", '{"spent": 1, "budget": 2, "more": 3}'):
        (tmp_path / PROGRESS).write_text(text)
        (tmp_path / RESULT).write_text(text[:1])
        assert record.progress() is None and record.result() is None


def test_a_process_lives_until_it_ends(tmp_path):
    record = SearchRecord(tmp_path)
    assert record.pid is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record.begin(child.pid)
    assert record.pid == child.pid
    child.communicate(b"\n")
    assert record.pid is None
    # Another process that has got the same number did not begin at the same time.
    (tmp_path / "running.json").write_text(json.dumps([os.getpid(), 1.0]))
    assert record.pid is None
    record.end()
    record.end()


def test_the_last_line_of_the_log_is_the_reason(tmp_path):
    record = SearchRecord(tmp_path)
    assert record.tail() == ""
    (tmp_path / LOG).write_bytes(b"first\nError: no data\xff\n\n")
    assert record.tail().startswith("Error: no data")


def searched(session, record, **more):
    """The progress of a whole search without derivatives, and the search."""
    wanted = Wanted(
        **{"aim": "loss", "method": "coordinate", "budget": 6, "limited": False, **more}
    )
    search = Search(session, session.models, wanted)
    for _ in search.steps():
        record.write_step(search, session.workdir)
    return record.progress(), search


def test_a_recipe_that_sliders_cannot_show_is_saved_with_its_losses(session, tmp_path):
    progress, search = searched(session, SearchRecord(tmp_path), groups="depth", budget=12)
    assert progress.omegas is None
    assert set(progress.groups["ada"]) >= {"early layers", "middle layers"}
    assert {
        f"{vector} in {group}": omega
        for vector, own in progress.groups.items()
        for group, omega in own.items()
    } == search.best.point
    losses = session.losses(read_recipe(progress.recipe))
    assert progress.losses == pytest.approx({name: loss.value for name, loss in losses.items()})
    assert (progress.trials, progress.front) == (12, 0)


def test_the_numbers_of_a_method_come_with_the_best(session, tmp_path):
    record, more = SearchRecord(tmp_path), {"method": "tpe", "budget": 3}
    merge = Choice("ties", {"lambda": 1.5})
    progress, search = searched(session, record, merge=merge, vary={"density": (0.2, 0.6)}, **more)
    density = search.best.point["density"]
    assert progress.method == "ties"
    assert progress.parameters == {"lambda": 1.5, "density": density} and 0.2 <= density <= 0.6
    assert progress.omegas == {name: search.best.point[name] for name in session.models.names}
    plain, _ = searched(session, record, **more)
    assert (plain.method, plain.parameters) == ("task_arithmetic", {})
    record.write_problem("other words")
    assert record.progress() == replace(plain, problem="other words")


def test_sliders_get_the_best_and_several_aims_count_their_front(session, tmp_path):
    record = SearchRecord(tmp_path)
    plain, search = searched(session, record)
    assert (plain.omegas, plain.groups, plain.recipe) == (search.best.point, None, "")
    several, _ = searched(session, record, aim="front", method="nsga", budget=8)
    assert 1 <= several.front <= 8
    assert several.losses.keys() == session.models.data.keys()


def test_a_trial_has_its_aim_with_the_error_of_its_difference_from_the_base(session, tmp_path):
    record, models = SearchRecord(tmp_path), session.models
    wanted = Wanted(method="greedy", levels=3, budget=8, groups="part", low=-1.0)
    search = Search(session, models, wanted)
    for step in search.steps():
        record.add_trial(search, step.trial)
    trials = {search.recipe_of(trial).digest: trial for trial in search.searcher.trials}
    rows = record.trials()
    assert len(rows) == 8 and rows[0]["score"] == min(trial.score for trial in trials.values())
    gains = {
        name: base.value - own.value
        for name, (base, own) in search.ends.items()
        if own is not None and own.value < base.value - 1e-9
    }
    for row in rows:
        trial = trials[row["digest"]]
        recipe = search.recipe_of(trial)
        shares = [
            (search.ends[name][0].value - trial.measured.losses[name]) / gain
            for name, gain in gains.items()
        ]
        assert row["value"] == pytest.approx(100 * sum(shares) / len(shares))
        # The mean of independent shares, each with the paired error of its loss.
        errors = paired_errors(session, models, recipe, models.recipe({}))
        squares = [(errors[name] / gain) ** 2 for name, gain in gains.items()]
        assert row["error"] == pytest.approx(100 * sum(squares) ** 0.5 / len(squares))
        worse = any(
            trial.measured.losses[name] > base.value + errors[name]
            for name, (base, _) in search.ends.items()
        )
        assert row["allowed"] is not worse
    assert {row["allowed"] for row in rows} == {True, False}


def test_a_search_that_begins_again_keeps_its_trials_anew(tmp_path):
    record = SearchRecord(tmp_path)
    assert record.trials() == [] and record.about() == {}
    # The last line is being written.
    (tmp_path / TRIALS).write_text('{"score": 2}\n{"score": 1}\n{"sco')
    assert record.trials() == [{"score": 1}, {"score": 2}]
    (tmp_path / ABOUT).write_text('{"aim": "loss"}')
    record.begin(os.getpid())
    assert record.trials() == [] and record.about() == {"aim": "loss"}
