"""Pieces computed in parallel come in order, within their room, and keep torch's settings."""

import threading
import time

import pytest
import torch

from merging.threads import MOST, Spare, in_order, workers


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads):
    def slow_first(item):
        time.sleep(0.01 if item % 3 == 0 else 0)
        return item * 10

    assert list(in_order(range(23), slow_first, room=7, threads=threads)) == [
        item * 10 for item in range(23)
    ]
    assert list(in_order([], slow_first, room=7, threads=threads)) == []


def test_no_more_is_under_way_than_there_is_room_for_and_what_is_larger_goes_alone():
    """Sizes 2, 2, 9, 2, 2 in a room of 5: two together, the large one alone, two together."""
    lock, now, seen = threading.Lock(), 0, []

    def compute(size):
        nonlocal now
        with lock:
            now += size
            seen.append(now)
        time.sleep(0.02)
        return size

    for size in in_order([2, 2, 9, 2, 2], compute, size=lambda size: size, room=5, threads=4):
        with lock:
            now -= size
    assert max(seen) == 9 and 11 not in seen and seen.count(4) == 2


def test_an_error_comes_at_its_item_and_what_waits_behind_it_is_dropped():
    begun = []

    def compute(item):
        begun.append(item)
        if item == 2:
            raise ValueError("the third")
        time.sleep(0.01)
        return item

    got = []
    with pytest.raises(ValueError, match="the third"):
        for item in in_order(range(100), compute, room=4, threads=1):
            got.append(item)
    assert got == [0, 1] and max(begun) < 7


def test_the_caller_hears_a_tick_while_it_waits_and_may_stop(monkeypatch):
    monkeypatch.setattr("merging.threads.TICK", 0.001)
    ticks, go = [], threading.Event()

    def tick():
        ticks.append(threading.current_thread())
        if len(ticks) == 3:
            go.set()

    assert list(in_order([1], lambda item: go.wait(30), room=1, tick=tick)) == [True]
    assert set(ticks) == {threading.current_thread()} and len(ticks) >= 3

    def stop():
        go.set()
        raise KeyboardInterrupt

    go.clear()
    with pytest.raises(KeyboardInterrupt):
        list(in_order([1], lambda item: go.wait(30), room=1, tick=stop))


def test_whoever_stops_listening_ends_the_work():
    begun = []
    results = in_order(range(1000), lambda item: begun.append(item) or item, room=3, threads=1)
    assert next(results) == 0
    results.close()
    ended = list(begun)
    assert len(ended) <= 4
    time.sleep(0.05)
    assert begun == ended


def test_torch_runs_single_threaded_inside_and_as_before_outside():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        inside = list(in_order(range(8), lambda item: torch.get_num_threads(), room=8, threads=2))
        late = []
        thread = threading.Thread(target=lambda: late.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (inside, torch.get_num_threads(), late) == ([1] * 8, 3, [3])
        assert workers() == 3
        names = set(
            in_order(
                range(40),
                lambda item: time.sleep(0.002) or threading.current_thread().name,
                room=40,
            )
        )
        assert len(names) == 3, "as many as torch would use"
        torch.set_num_threads(64)
        assert workers() == MOST == 8, "memory is bounded on a machine of many cores"
    finally:
        torch.set_num_threads(before)


def test_what_is_spare_is_used_again_and_made_only_where_there_is_none():
    made = iter("abc")
    spare = Spare(lambda: next(made))
    with spare.borrowed() as first:
        assert (first, spare.take()) == ("a", "b")
    with pytest.raises(ValueError, match="stop"), spare.borrowed() as again:
        assert again == "a"
        raise ValueError("stop")
    assert [spare.take(), spare.take()] == ["a", "c"]  # given back after an error too
