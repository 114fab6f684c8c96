"""Writing a datastore: the same bytes in any order, by any processes, after any kill."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from influence.datastore.coverage import read_coverage
from influence.datastore.layout import part_of
from influence.datastore.store import open_datastore
from influence.datastore.store_writer import UNMARKED, DatastoreWriter
from influence.errors import InfluenceError
from tests.influence.datastore.conftest import gradients, settings, written

ROOT = Path(__file__).parents[3]


def store(folder, first=0, last=1601, step=7, after_batch=lambda: None):
    """Writes those of some examples that are missing, at both checkpoints; returns how many."""
    asked = settings(sources=(("cot", 301), ("p3", 1300)), dimension=4)
    values, count = gradients(asked), 0
    with DatastoreWriter(folder, asked) as writer:
        for checkpoint in range(2):
            missing = writer.missing(checkpoint, range(first, last))
            for start in range(0, len(missing), step):
                batch = missing[start : start + step]
                writer.put(checkpoint, batch, values[checkpoint, batch])
                after_batch()
            count += len(missing)
        writer.finish()
    return count


def store_in_a_process(*words):
    """A process that runs `store` and prints a line after each batch."""
    code = (
        "import sys; from pathlib import Path; "
        "from tests.influence.datastore.test_store_writer import store; "
        "store(Path(sys.argv[1]), *map(int, sys.argv[2:]), lambda: print(flush=True))"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize("batches", [1, 300])
def test_a_writer_that_is_killed_and_resumed_leaves_the_same_bytes(batches, tmp_path):
    """At the first of 458 batches and in the middle of the second checkpoint."""
    process = store_in_a_process(tmp_path / "killed", 0, 1601, 7)
    for _ in range(batches):
        process.stdout.readline()
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    coverage = read_coverage(tmp_path / "killed")
    assert 7 * batches - UNMARKED <= coverage.written < coverage.rows
    with pytest.raises(InfluenceError, match="is not complete"):
        open_datastore(tmp_path / "killed")
    assert store(tmp_path / "killed", step=5) == coverage.rows - coverage.written
    store(tmp_path / "whole")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_at_once_leave_the_same_bytes_as_one(tmp_path):
    other = store_in_a_process(tmp_path / "two", 700, 1601, 11)
    other.stdout.readline()  # it has begun
    assert store(tmp_path / "two", 0, 700) == 2 * 700
    other.communicate()
    assert other.returncode == 0
    store(tmp_path / "one")
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_the_order_of_writing_and_writing_twice_do_not_matter(tmp_path):
    asked = settings()
    values = gradients(asked)
    written(tmp_path / "straight", asked, values)
    for _ in range(2):
        with DatastoreWriter(tmp_path / "mixed", asked) as writer:
            for checkpoint in (1, 0):
                for batch in ([10, 3], [0, 9, 8, 1], [7], [2, 6, 5, 4], [3]):
                    writer.put(checkpoint, batch, values[checkpoint, batch])
            writer.finish()
    assert content(tmp_path / "mixed") == content(tmp_path / "straight")


def test_a_row_is_marked_only_after_it_and_its_norm_are_on_the_disk(tmp_path, monkeypatch):
    """The order of flushes and of the marks, as the system sees it."""
    asked = settings()
    events = []
    with DatastoreWriter(tmp_path, asked) as writer:
        names = {file.fileno(): file.name for file in writer._files.values()}
        marks = part_of(tmp_path, asked, 0, "written")
        monkeypatch.setattr(
            os, "fsync", lambda fd: events.append((Path(names[fd]).name, int(marks.mapped().sum())))
        )
        writer.put(0, [5, 2], gradients(asked)[0, [5, 2]])
        writer.flush()
    assert events == [("0-rows.bin", 0), ("0-norms.bin", 0), ("0-written.bin", 2)]


def test_what_is_missing_is_known(tmp_path):
    asked = settings()
    with DatastoreWriter(tmp_path, asked) as writer:
        writer.put(1, [4, 0], gradients(asked)[1, [4, 0]])
        assert writer.missing(0) == list(range(11))
        assert writer.missing(1) == [1, 2, 3, 5, 6, 7, 8, 9, 10]
        assert writer.missing(1, range(3, 6)) == [3, 5]
        assert writer.missing(1, range(0, 11, 2)) == [2, 6, 8, 10]


def test_rows_that_would_not_fit_float16(tmp_path):
    """Lengths of 1e-30 and 1e30 are kept beside rows of length 1; 1e-50 counts as zero."""
    asked = settings(sources=(("cot", 3),), rates=(1.0,), dimension=4)
    values = torch.tensor([[3e-30, 0, 0, 4e-30], [0, -1e30, 0, 0], [1e-50, 0, 0, 0]]).double()
    values[2, 0] = 1e-50
    store = written(tmp_path, asked, values[None])
    assert store.rows(0).tolist() == [
        [np.float16(0.6), 0, 0, np.float16(0.8)],
        [0, -1, 0, 0],
        [0, 0, 0, 0],
    ]
    assert store.norms(0).tolist() == [np.float32(5e-30), np.float32(1e30), 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
def test_a_gradient_that_is_not_finite_is_refused_by_name(value, tmp_path):
    asked = settings()
    values = gradients(asked)[1, [2, 4]]
    values[1, 3] = value
    with DatastoreWriter(tmp_path, asked) as writer:
        with pytest.raises(
            InfluenceError, match="The gradient of example 2 of 'p3' at 'epoch 2' is not finite"
        ):
            writer.put(1, [2, 4], values)
        assert writer.missing(1) == list(range(11))


def test_gradients_of_another_shape_are_refused(tmp_path):
    message = r"shape \(2, 5\) .* 2 examples .* 6 numbers"
    with (
        DatastoreWriter(tmp_path, settings()) as writer,
        pytest.raises(InfluenceError, match=message),
    ):
        writer.put(0, [0, 1], torch.zeros(2, 5))


@pytest.mark.parametrize("example", [-1, 11])
def test_an_example_that_does_not_exist_is_refused(example, tmp_path):
    """Written, it would be outside the file or change its size."""
    with (
        DatastoreWriter(tmp_path, settings()) as writer,
        pytest.raises(InfluenceError, match=f"no example {example} in a datastore of 11"),
    ):
        writer.put(0, [0, example], torch.ones(2, 6))


def test_other_settings_and_damage_are_refused_before_anything_is_written(small):
    store, _ = small
    before = content(store.folder)
    with pytest.raises(InfluenceError, match="kind: the datastore has 'sgd', and 'adam'"):
        DatastoreWriter(store.folder, replace(store.settings, kind="adam"))
    assert content(store.folder) == before
    (store.folder / "0-norms.bin").unlink()
    with pytest.raises(InfluenceError, match="0-norms.bin is missing"):
        DatastoreWriter(store.folder, store.settings)


def test_a_disk_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(InfluenceError, match="The datastore needs .* TB and the disk of"):
        DatastoreWriter(tmp_path / "a", settings(sources=(("cot", 10**12),)))
    assert list((tmp_path / "a").iterdir()) == []
