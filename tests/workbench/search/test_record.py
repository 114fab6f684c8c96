"""The folder of a search: whole progress, damaged files, living and dead processes."""

import json
import os
import subprocess
import sys

import pytest

from merging.recipe import read_recipe
from workbench.search.record import LOG, PROGRESS, RESULT, Progress, SearchRecord
from workbench.search.running import Search
from workbench.search.wanted import Wanted


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


def test_sliders_get_the_best_and_several_aims_count_their_front(session, tmp_path):
    record = SearchRecord(tmp_path)
    plain, search = searched(session, record)
    assert (plain.omegas, plain.groups, plain.recipe) == (search.best.point, None, "")
    several, _ = searched(session, record, aim="front", method="nsga", budget=8)
    assert 1 <= several.front <= 8
    assert several.losses.keys() == session.models.data.keys()
