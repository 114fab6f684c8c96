"""The cost ledger: what goes in comes out, after a crash, past a damaged file; and what a training cost in all."""

import math
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.errors import StoreError
from evaluation.records.ledger import KINDS, Ledger, Phase, Total, Training, total, trainings

PHASE = Phase(
    kind="training",
    name="cot",
    wall_seconds=12.3456789012345,
    device_seconds=23.5,
    examples=1009,
    tokens=50021,
    supervised=7001,
    peak_bytes=2**33,
    device="NVIDIA H200",
    processes=2,
    settings=3,
    digest="0123456789ab",
    output="/models/cot",
    complete=False,
    created="2026-11-21T12:00:00.000+00:00",
)


def test_what_goes_in_comes_out_oldest_first(tmp_path: Path) -> None:
    other = replace(
        PHASE,
        kind="export",
        digest="other",
        tokens=None,
        supervised=None,
        peak_bytes=None,
        complete=True,
    )
    with Ledger(tmp_path / "new folder" / "ledger.sqlite") as ledger:
        assert ledger.add_all([PHASE, other]) == [1, 2]
    with Ledger(tmp_path / "new folder" / "ledger.sqlite") as ledger:
        assert ledger.phases() == [replace(PHASE, id=1), replace(other, id=2)]
        assert ledger.phases("export") == [replace(other, id=2)]
        assert ledger.phases(digest="0123456789ab") == [replace(PHASE, id=1)]
        assert ledger.phases("export", digest="0123456789ab") == []
        assert ledger.message is None


def test_plain_values_are_enough(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert (
            ledger.add("training", "cot", wall_seconds=2, device_seconds=1, examples=7, output="/x")
            == 1
        )
        (phase,) = ledger.phases()
    assert phase == Phase(
        "training", "cot", 2.0, 1.0, examples=7, output="/x", created=phase.created, id=1
    )
    assert (phase.complete, phase.settings, phase.processes, phase.device) == (True, 1, 1, "cpu")
    assert phase.created.endswith("+00:00")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"kind": "cooking"},
            r"'cooking'; give one of training, search, evaluation, merging, export, influence",
        ),
        ({"wall_seconds": math.nan}, r"phase 'cot' spent nan; give a finite amount from 0"),
        ({"device_seconds": -1.0}, r"spent -1.0"),
        ({"tokens": -7}, r"spent -7"),
        ({"settings": 0}, r"0 settings, 2 processes; give 1 or more"),
        ({"processes": 0}, r"3 settings, 0 processes"),
    ],
)
def test_amounts_that_cannot_be_are_refused(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(PHASE, **change)


def test_all_or_none(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        bad = replace(PHASE, name=object())  # type: ignore[arg-type]
        with pytest.raises(sqlite3.Error):
            ledger.add_all([PHASE, bad])
        assert ledger.phases() == []
        assert ledger.add_all([PHASE, PHASE]) == [1, 2]


def test_threads_and_a_second_ledger_at_once(tmp_path: Path) -> None:
    path, failures = tmp_path / "ledger.sqlite", []

    def work(ledger: Ledger, name: str) -> None:
        try:
            for step in range(20):
                ledger.add("export", f"{name}-{step}", wall_seconds=1, device_seconds=1)
                ledger.phases("training")
        except Exception as error:
            failures.append(error)

    with Ledger(path) as one, Ledger(path) as two:
        threads = [
            threading.Thread(target=work, args=(store, f"{i}"))
            for i, store in enumerate([one, one, two, two])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len({phase.name for phase in one.phases()}) == 80
        assert [phase.id for phase in two.phases()] == list(range(1, 81))


def test_a_killed_process_loses_nothing_that_was_added(tmp_path: Path) -> None:
    code = f"""
import os, signal
from evaluation.records.ledger import Ledger
Ledger({str(tmp_path / "ledger.sqlite")!r}).add("export", "first", wall_seconds=1, device_seconds=1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == -9
    )
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.phases()[0].name == "first"


def test_durable_settings(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for pragma, value in {
            "journal_mode": "wal",
            "synchronous": 2,
            "busy_timeout": 5000,
        }.items():
            assert ledger._database.rows(f"PRAGMA {pragma}") == [(value,)]


@pytest.mark.parametrize("damage", ["text", "page"])
def test_a_damaged_file_is_set_aside(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.add_all([replace(PHASE, output="x" * 3000)] * 20)
    content = bytearray(path.read_bytes())
    content[:] = (
        b"not a database at all" * 99
        if damage == "text"
        else content[:4096] + b"\xff" * (len(content) - 4096)
    )
    path.write_bytes(content)
    said: list[str] = []
    with Ledger(path, said.append) as ledger:
        assert ledger.phases() == []
        assert ledger.add_all([PHASE]) == [1]
        (aside,) = tmp_path.glob("ledger.sqlite.corrupt-*")
        assert said == [
            f"{path} is damaged; it was kept as {aside.name} and a new cost ledger was started."
        ]
        assert ledger.message == said[0]
    assert aside.read_bytes() == content


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(
        StoreError,
        match=r"newer version of this program \(table version 2, known up to 1\)\. Update",
    ):
        Ledger(path)
    assert list(tmp_path.glob("*corrupt*")) == []


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StoreError, match=r"file cannot be made: .*\. Give a folder you may write to"
    ):
        Ledger(tmp_path / "file" / "ledger.sqlite")
    with pytest.raises(StoreError, match=r"cannot be opened: .*\. Check its permissions"):
        Ledger(tmp_path)


def test_a_write_that_fails_says_which_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger._database._connection.execute("PRAGMA busy_timeout = 10")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            StoreError, match=r"ledger.sqlite cannot be written: database is locked"
        ):
            ledger.add_all([PHASE])
        other.execute("ROLLBACK")
        other.close()
        assert ledger.add_all([PHASE]) == [1]


def test_phases_add_up() -> None:
    plain = Phase("export", "x", 2.5, 1.5)
    assert total([PHASE, plain]) == Total(2, 14.8456789012345, 25.0, 1009, 50021, 2**33)
    assert total([plain]) == Total(1, 2.5, 1.5, 0, 0, None)
    assert total([]) == Total(0, 0.0, 0.0, 0, 0, None)


def test_a_training_is_paid_for_with_the_parts_that_were_broken_off() -> None:
    def part(
        name: str, seconds: float, complete: bool = True, digest: str = "d", examples: int = 10
    ) -> Phase:
        return Phase(
            "training",
            name,
            seconds,
            2 * seconds,
            examples,
            digest=digest,
            output="/o",
            complete=complete,
        )

    phases = [
        part("cot", 5, complete=False),
        part("sni", 7),
        part("cot", 3),  # resumed: 5 + 3
        part("cot", 100, complete=False, digest="other settings"),  # never ended
        part("cot", 4),  # trained again: its own 4 only
        Phase("export", "cot", 1000, 1000),
    ]
    found = trainings(phases)
    assert [(one.name, one.wall_seconds, one.device_seconds, one.examples) for one in found] == [
        ("sni", 7, 14, 10),
        ("cot", 8, 16, 20),
        ("cot", 4, 8, 10),
    ]
    assert found[0] == Training("sni", "/o", "d", 7.0, 14.0, 10, "cpu")
    assert found[0].is_called("sni")
    assert found[0].is_called("/o")
    assert not found[0].is_called("cot")
    assert not found[0]._replace(output="").is_called("")


def test_the_kinds() -> None:
    assert KINDS == ("training", "search", "evaluation", "merging", "export", "influence")
