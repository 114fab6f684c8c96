"""Answers of runs: read anew when they change, and the files that may be downloaded."""

import os

import pytest

from workbench.errors import SessionError
from workbench.influence_runs.data_answers import (
    BALANCED,
    RESULT,
    SO_FAR,
    answer,
    files,
    selection_file,
    version,
)
from workbench.session.workdir import Workdir


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "data" / "select" / "one"
    folder.mkdir(parents=True)
    return Workdir(tmp_path)


def test_an_answer_is_read_once_it_is_there_and_again_when_it_changes(workdir):
    file = workdir.data_run("select", "one") / RESULT
    assert answer(workdir, "select", "one") is None
    file.write_text('{"a": 1}')
    first = answer(workdir, "select", "one")
    assert first == {"a": 1} and answer(workdir, "select", "one") is first
    file.write_text('{"a": 2}')
    os.utime(file, ns=(1, 1))
    assert answer(workdir, "select", "one") == {"a": 2}


def test_a_balance_is_answered_by_what_is_measured_so_far_until_it_is_finished(workdir):
    rounds = workdir.data_run("balance", "one") / "rounds"
    rounds.mkdir(parents=True)
    assert version(workdir, "balance", "one") is None
    (rounds / SO_FAR).write_text('{"rounds": [0]}')
    first = version(workdir, "balance", "one")
    assert answer(workdir, "balance", "one") == {"rounds": [0]}
    (rounds / SO_FAR).write_text('{"rounds": [0, 1]}')
    assert version(workdir, "balance", "one") != first
    assert answer(workdir, "balance", "one") == {"rounds": [0, 1]}
    assert not files(workdir, "balance", "one")
    for name in (BALANCED, "doremi.csv", "doremi.proxy.json"):
        (rounds / name).write_text("x")
    (rounds.parent / RESULT).write_text('{"rounds": [0, 1, 2]}')
    assert answer(workdir, "balance", "one") == {"rounds": [0, 1, 2]}
    assert list(files(workdir, "balance", "one")) == [BALANCED, "doremi.csv", RESULT]


def test_only_files_of_the_answer_are_listed(workdir):
    folder = workdir.data_run("select", "one")
    for name in (RESULT, "one.csv", "run.json", "other.txt"):
        (folder / name).write_text("x")
    assert list(files(workdir, "select", "one")) == ["one.csv", RESULT]
    selection_file(folder).write_text("x")
    assert next(iter(files(workdir, "select", "one"))) == "one.selection.json"
    with pytest.raises(SessionError):
        files(workdir, "select", "..")
