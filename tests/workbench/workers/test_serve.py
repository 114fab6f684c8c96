"""The loop of a worker: whose unit is whose, in which order, when it stops, when it leaves."""

import os
import threading
import time

from plumbing.atomic import write_whole
from tests.workbench.workers.benches import plain, result_of, unit_of
from workbench.workers.executor import Seat
from workbench.workers.serve import BEAT, QUEUE, RESULTS, TAKEN, Heart, serve
from workbench.workers.unit import UnitResult


def folder_with(tmp_path, *units):
    for name in (QUEUE, TAKEN, RESULTS, "data"):
        (tmp_path / name).mkdir()
    (tmp_path / BEAT).touch()
    for number, unit in enumerate(units):
        write_whole(tmp_path / QUEUE / f"{number:06d}-{unit.id}.json", unit.to_json())
    return tmp_path


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_two_workers_measure_every_unit_once(tmp_path):
    units = [unit_of(f"unit {number}", tmp_path / "data") for number in range(29)]
    folder = folder_with(tmp_path, *units)
    threads = [
        threading.Thread(target=serve, args=(folder, name, Seat(0, 0, folder), plain))
        for name in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    until(lambda: len(list((folder / RESULTS).glob("*.json"))) == len(units))
    (folder / BEAT).unlink()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(list((folder / "data").iterdir())) == len(units)
    assert list((folder / QUEUE).iterdir()) == list(folder.glob(f"{TAKEN}/*/*")) == []
    for unit in units:
        text = (folder / RESULTS / f"{unit.id}.json").read_text()
        assert UnitResult.from_json(text) == result_of(unit)


def test_the_oldest_unit_comes_first_and_one_that_is_taken_away_stops(tmp_path):
    first, second = (unit_of(word, tmp_path / "data") for word in ("wait", "unit 2"))
    folder = folder_with(tmp_path, first, second)
    thread = threading.Thread(target=serve, args=(folder, "a", Seat(0, 0, folder), plain))
    thread.start()
    until(lambda: list((folder / "data").glob(f"{first.id}*")))
    assert not (folder / RESULTS / f"{second.id}.json").exists()
    next((folder / TAKEN / "a").iterdir()).unlink()
    until(lambda: (folder / RESULTS / f"{second.id}.json").exists())
    assert (folder / "data" / "stopped").exists()
    assert not (folder / RESULTS / f"{first.id}.json").exists()
    (folder / BEAT).unlink()
    thread.join(30)


def test_a_worker_leaves_when_it_is_told_to_or_the_executor_is_silent(tmp_path):
    folder = folder_with(tmp_path, unit_of("wait", tmp_path / "data"))
    goes_on = iter([True] * 9)
    serve(folder, "a", Seat(0, 0, folder), plain, alive=lambda: next(goes_on, False))
    assert (folder / "data" / "stopped").exists()
    heart = Heart(folder, patience=0.2)
    assert heart.beats()
    time.sleep(0.3)
    assert not heart.beats()
    # Also a time that went backwards is a sign of life: clocks of machines differ.
    os.utime(folder / BEAT, (1, 1))
    assert heart.beats()
    (folder / BEAT).unlink()
    assert not heart.beats()
