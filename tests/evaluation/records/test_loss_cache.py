"""Losses are kept by composition and examples; a damaged file is replaced by an empty one and reported."""

import math
import sqlite3

from evaluation.records.loss_cache import Entry, LossCache

ENTRY = Entry("cot", 1.25, 0.5, 2, 31, (30.0, 8.75), (20, 11))


def test_a_loss_is_found_under_its_two_keys_only(tmp_path):
    path = tmp_path / "losses.sqlite"
    cache = LossCache(path)
    assert cache.put("composition", "data", ENTRY) == ENTRY
    newer = ENTRY._replace(value=1.5)
    cache.put("composition", "data", newer)
    assert cache.get("composition", "data") == newer
    assert cache.get("data", "composition") is None
    cache.close()
    cache.close()  # closing again does nothing
    again = LossCache(path)
    assert again.get("composition", "data") == newer
    again.close()


def test_a_loss_that_is_no_number_is_kept(tmp_path):
    cache = LossCache(tmp_path / "losses.sqlite")
    broken = Entry("cot", math.nan, math.nan, 1, 3, (math.inf,), (3,))
    cache.put("composition", "data", broken)
    kept = cache.get("composition", "data")
    assert math.isnan(kept.value) and math.isnan(kept.stderr) and kept[3:] == broken[3:]
    cache.close()


def test_derivatives_are_kept_by_vector(tmp_path):
    cache = LossCache(tmp_path / "losses.sqlite")
    assert cache.slopes("composition", "data") == {}
    cache.put_slopes("composition", "data", {"ada": 0.5, "bob": -0.25})
    cache.put_slopes("composition", "data", {"bob": 0.125})
    assert cache.slopes("composition", "data") == {"ada": 0.5, "bob": 0.125}
    assert cache.slopes("data", "composition") == {}
    cache.close()


def test_a_file_from_before_it_had_a_version_keeps_its_losses(tmp_path):
    path = tmp_path / "losses.sqlite"
    cache = LossCache(path)
    cache.put("composition", "data", ENTRY)
    cache.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 0")
    db.close()
    again = LossCache(path)
    assert again.get("composition", "data") == ENTRY
    again.close()


def test_a_file_of_version_1_keeps_its_losses_and_takes_those_of_examples(tmp_path):
    path = tmp_path / "losses.sqlite"
    cache = LossCache(path)
    cache.put("composition", "data", ENTRY)
    cache.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE examples")
        db.execute("PRAGMA user_version = 1")
    db.close()
    again = LossCache(path)
    assert again.get("composition", "data") == ENTRY._replace(sums=(), counts=())
    again.put("composition", "data", ENTRY)
    assert again.get("composition", "data") == ENTRY
    again.close()


def test_a_damaged_file_is_moved_aside_reported_and_replaced(tmp_path):
    path = tmp_path / "losses.sqlite"
    content = b"not a database at all" * 99
    path.write_bytes(content)
    reported = []
    cache = LossCache(path, reported.append)
    assert cache.get("composition", "data") is None
    assert cache.put("composition", "data", ENTRY) == cache.get("composition", "data")
    cache.close()
    (aside,) = tmp_path.glob("losses.sqlite.corrupt-*")
    assert reported == [
        f"{path} is damaged; it was kept as {aside.name} and a new loss cache was started."
    ]
    assert aside.read_bytes() == content
