"""Splits share no question, and what a training gets is what the files hold."""

import json

from hypothesis import given
from hypothesis import strategies as st

from corpus.real.card import card
from corpus.real.datasets import RealData, split, write
from corpus.real.item import Item
from corpus.source import Source, load_source

SIZES = {"test": 3, "validation": 2, "train": 10}
words = st.sampled_from(["river", "castle", "engine", "violin", "harbour", "lantern", "meadow"])
asked = st.lists(
    st.builds(
        lambda one, two, group: Item(f"Where is the {one} of the {two}?", "There.", None, group),
        words,
        words,
        st.sampled_from(["", "", "a", "b"]),
    ),
    max_size=30,
)


@given(asked)
def test_no_question_is_in_two_splits_and_groups_stay_together(items):
    splits, counts = split(items, SIZES, "seed")
    for name, own in splits.items():
        others = [item for other, kept in splits.items() if other != name for item in kept]
        assert not {i.question.casefold() for i in own} & {i.question.casefold() for i in others}
        assert not {i.group for i in own} & {i.group for i in others} - {""}
    assert counts.found == len(items)
    assert counts.same == len(items) - len({item.question.casefold() for item in items})
    assert sum(map(len, splits.values())) <= counts.found - counts.same - counts.near


def test_what_is_nearly_the_same_is_removed_and_counted():
    twins = ["Name the largest planet of all", "Name the largest planet of all!"]
    items = [Item(text, "Jupiter") for text in twins]
    splits, counts = split(items, {"test": 1, "validation": 0, "train": 9}, "seed")
    assert counts.near == 1 and len(splits["test"]) == 1 and splits["train"] == []


def test_the_same_seed_gives_the_same_splits():
    items = [Item(f"{number} of {number**3 % 97}", "x") for number in range(40)]
    assert split(items, SIZES, "a") == split(items, SIZES, "a")
    assert split(items, SIZES, "a") != split(items, SIZES, "b")


def test_the_files_are_read_as_chats_and_keep_what_is_accepted(tmp_path):
    item = Item("What is 1 + 2?", "3", "3")
    write(tmp_path, {"sums": {"train": [item], "validation": [], "test": [item]}})
    [chat] = load_source(Source("sums", str(tmp_path / "sums" / "train.jsonl")))
    assert [turn.content for turn in chat.messages] == ["What is 1 + 2?", "3"]
    assert json.loads((tmp_path / "sums" / "test.jsonl").read_text())["accepted"] == "3"
    assert json.loads((tmp_path / "order.json").read_text()) == ["sums"]
    assert not (tmp_path / "sums" / "validation.jsonl").exists()


def test_the_card_counts_what_was_removed():
    splits, counts = split([Item("What?", "x"), Item("what?", "y")], SIZES, "seed")
    assert "| sums | 0 | 0 | 1 | 2 | 1 | 0 |" in card(RealData({"sums": splits}, {"sums": counts}))
