"""The run store: what goes in comes out, from any thread, after a crash, and past a damaged file."""

import math
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.errors import StoreError
from evaluation.records.scores import Run, RunStore, versions

RUN = Run(
    recipe_digest="0123456789ab",
    recipe_yaml="merge_method: task_arithmetic\nmodels:\n  - model: cot  # ω\n",
    formula="Θ + 0.70·Δcot",
    kind="bench",
    task="demo_p3",
    metric="acc",
    value=0.7123456789012345,
    stderr=0.026,
    n=300,
    seed=7,
    limit=None,
    suite="demo",
    versions={"torch": "2.13.0", "ours": "0.1"},
    seconds=1.25,
    created="2026-11-21T12:00:00.000+00:00",
    label="best so far",
)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    with RunStore(tmp_path / "new folder" / "runs.db") as store:
        assert store.add(RUN) == 1
        assert store.add(replace(RUN, limit=50, recipe_digest="other")) == 2
        assert store.runs() == [
            replace(RUN, limit=50, recipe_digest="other", id=2),
            replace(RUN, id=1),
        ]
        assert store.runs(1)[0].id == 2
        assert [run.id for run in store.runs(recipe_digest="0123456789ab")] == [1]
    with RunStore(tmp_path / "new folder" / "runs.db") as store:
        assert store.runs()[1] == replace(RUN, id=1)
        assert store.message is None


def test_nan_is_kept(tmp_path: Path) -> None:
    with RunStore(tmp_path / "runs.db") as store:
        store.add(replace(RUN, value=math.nan, stderr=math.nan, seconds=math.nan))
        (run,) = store.runs()
    assert math.isnan(run.value)
    assert math.isnan(run.stderr)
    assert math.isnan(run.seconds)


def test_defaults_say_when_and_with_what() -> None:
    run = Run("d", "y", "Θ", "loss", "cot", "nats per token", 0.5, 0.01, 32)
    assert run.versions == versions()
    assert set(run.versions) == {"torch", "transformers", "lm-eval", "dem-workbench"}
    assert run.created.endswith("+00:00")
    assert run.versions["torch"].startswith("2.")


def test_all_or_none(tmp_path: Path) -> None:
    with RunStore(tmp_path / "runs.db") as store:
        bad = replace(RUN, n=object())  # type: ignore[arg-type]
        with pytest.raises(sqlite3.Error):
            store.add_all([RUN, bad])
        assert store.runs() == []
        assert store.add_all([RUN, RUN]) == [1, 2]


def test_label(tmp_path: Path) -> None:
    with RunStore(tmp_path / "runs.db") as store:
        store.label(store.add(RUN), "'; DROP TABLE runs; --")
        assert store.runs()[0].label == "'; DROP TABLE runs; --"
        with pytest.raises(KeyError, match="has no run 99"):
            store.label(99, "x")


def test_durable_settings(tmp_path: Path) -> None:
    with RunStore(tmp_path / "runs.db") as store:
        assert store._database._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._database._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert store._database._connection.execute("PRAGMA busy_timeout").fetchone() == (5000,)


def test_threads_and_a_second_store_at_once(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    failures = []

    def work(store: RunStore, name: str) -> None:
        try:
            for step in range(20):
                store.add(replace(RUN, task=f"{name}-{step}"))
                store.runs(3)
        except Exception as error:
            failures.append(error)

    with RunStore(path) as one, RunStore(path) as two:
        threads = [
            threading.Thread(target=work, args=(store, f"{i}"))
            for i, store in enumerate([one, one, two, two])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len({run.task for run in one.runs()}) == 80
        assert [run.id for run in two.runs()] == list(range(80, 0, -1))


def test_a_killed_process_loses_nothing_that_was_added(tmp_path: Path) -> None:
    code = f"""
import os, signal
from evaluation.records.scores import Run, RunStore
store = RunStore({str(tmp_path / "runs.db")!r})
store.add(Run("d", "y", "Θ", "loss", "cot", "loss", 0.5, 0.01, 32))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == -9
    )
    with RunStore(tmp_path / "runs.db") as store:
        assert store.runs()[0].task == "cot"
        assert store.message is None


@pytest.mark.parametrize("damage", ["text", "page"])
def test_a_damaged_file_is_set_aside(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with RunStore(path) as store:
        store.add_all([replace(RUN, recipe_yaml="x" * 3000)] * 20)
    content = bytearray(path.read_bytes())
    content[:] = (
        b"not a database at all" * 99
        if damage == "text"
        else content[:4096] + b"\xff" * (len(content) - 4096)
    )
    path.write_bytes(content)
    said: list[str] = []
    with RunStore(path, said.append) as store:
        assert store.runs() == []
        assert store.add(RUN) == 1
        (aside,) = tmp_path.glob("runs.db.corrupt-*")
        assert store.message == said[0]
        assert said == [
            f"{path} is damaged; it was kept as {aside.name} and a new run history was started."
        ]
    assert aside.read_bytes() == content


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    RunStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(
        StoreError,
        match=r"newer version of this program \(table version 2, known up to 1\)\. Update",
    ):
        RunStore(path)
    assert list(tmp_path.glob("*corrupt*")) == []


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StoreError, match=r"file cannot be made: .*\. Give a folder you may write to"
    ):
        RunStore(tmp_path / "file" / "runs.db")
    with pytest.raises(StoreError, match=r"cannot be opened: .*\. Check its permissions"):
        RunStore(tmp_path)
