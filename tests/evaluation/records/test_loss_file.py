"""The file of losses that ships with models: read once, found under the same keys, never believed if damaged."""

import json

import pytest

from evaluation.errors import StoreError
from evaluation.records.loss_cache import Described, Entry, LossCache
from evaluation.records.loss_file import Shipped, read_losses, write_losses

ENTRY = Entry("cot", 1.25, 0.5, 2, 31, (30.0, 8.75), (20, 11))
PARTS = {"one": '{"vectors": {}}', "two": '{"vectors": {"ä": 1}}'}
CONTENT = {f"content of {name}": name for name in PARTS}
"""Keys of contents -> keys in the cache that the file was written from."""
HERE = {f"content of {name}": Shipped(f"{name} here", parts) for name, parts in PARTS.items()}
"""What the same contents are where the file is read."""


@pytest.fixture
def cache(tmp_path):
    made = LossCache(tmp_path / "losses.sqlite")
    for number, composition in enumerate(PARTS):
        made.put(composition, "data", ENTRY._replace(value=1.0 + number))
    yield made
    made.close()


@pytest.fixture
def other(tmp_path):
    made = LossCache(tmp_path / "other.sqlite")
    yield made
    made.close()


def test_what_was_written_is_found_in_another_cache(cache, other, tmp_path):
    file = tmp_path / "losses.json"
    write_losses(file, cache, CONTENT, ["data"])
    assert read_losses(file, other, "base", HERE) == 2
    for composition in PARTS:
        assert other.get(f"{composition} here", "data") == cache.get(composition, "data")
    described = {
        Described(f"{key} here", parts, (1.0 + n,)) for n, (key, parts) in enumerate(PARTS.items())
    }
    assert set(other.compositions("base", ["data"])) == described
    assert read_losses(file, other, "base", HERE) == 0


def test_a_loss_that_was_measured_here_stays(cache, other, tmp_path):
    write_losses(tmp_path / "losses.json", cache, CONTENT, ["data"])
    mine = other.put("one here", "data", ENTRY._replace(value=9.0))
    assert read_losses(tmp_path / "losses.json", other, "base", HERE) == 1
    assert other.get("one here", "data") == mine


def test_losses_of_other_weights_are_left_where_they_are(cache, other, tmp_path):
    write_losses(tmp_path / "losses.json", cache, CONTENT, ["data"])
    one = {"content of one": HERE["content of one"]}
    assert read_losses(tmp_path / "losses.json", other, "base", one) == 1
    assert read_losses(tmp_path / "losses.json", other, "base", {}) == 0
    assert other.get("two here", "data") is None


def test_seven_digits_are_kept(cache, other, tmp_path):
    cache.put("one", "data", ENTRY._replace(value=1 / 3, sums=(2 / 3, 8.75)))
    write_losses(tmp_path / "losses.json", cache, {"content of one": "one"}, ["data"])
    read_losses(tmp_path / "losses.json", other, "base", HERE)
    assert other.get("one here", "data").value == 0.3333333
    assert other.get("one here", "data").sums == (0.6666667, 8.75)


def test_a_loss_that_was_not_measured_cannot_be_written(cache, tmp_path):
    with pytest.raises(StoreError, match=r"a loss of three was not measured yet"):
        write_losses(tmp_path / "losses.json", cache, {"content": "three"}, ["data"])
    cache.put("three", "data", ENTRY._replace(sums=(), counts=()))
    with pytest.raises(StoreError, match="a loss of three was not measured yet"):
        write_losses(tmp_path / "losses.json", cache, {"content": "three"}, ["data"])
    assert not (tmp_path / "losses.json").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda document: "no JSON", "has no losses that can be read"),
        (lambda document: json.dumps([1]), "has no losses that can be read"),
        (lambda document: json.dumps(document | {"format": 2}), "has format 2; known is 1"),
        (lambda document: json.dumps(document | {"data": {}}), r"can be read \('data'\)"),
        (
            lambda document: json.dumps(document | {"losses": [document["losses"][0] | {"sums": [1.0]}]}),
            "1 losses of 2 examples",
        ),
    ],
)  # fmt: skip
def test_a_damaged_file_adds_nothing(damage, message, cache, other, tmp_path):
    file = tmp_path / "losses.json"
    write_losses(file, cache, CONTENT, ["data"])
    file.write_text(damage(json.loads(file.read_text("utf-8"))), "utf-8")
    with pytest.raises(StoreError, match=message):
        read_losses(file, other, "base", HERE)
    assert other.get("one here", "data") is None and other.get("two here", "data") is None
