"""Counts of what is used and what is left out, and how they read."""

import pytest

from corpus import Counts, Dropped, Encoded, Example, count, encode_all

ROWS = [
    Encoded.of([5, 6, 7], [False, True, True]),
    Encoded.of([5, 6, 7, 8], [False, False, False, True]),
]


def test_worked_example():
    assert count(ROWS, Dropped(too_long=2, total=4)) == Counts(
        examples=2, dropped_too_long=2, tokens=7, supervised=3
    )
    assert count([], Dropped(0, 0)) == Counts(0, 0, 0, 0)


def test_counts_of_parts_add_up_to_the_counts_of_the_whole(speaker):
    tokenizer = speaker(None)
    records = [Example("what is the sum", " " + "four " * n) for n in range(1, 30)]
    whole = count(*encode_all(records, tokenizer, 60))
    parts = [count(*encode_all(part, tokenizer, 60)) for part in (records[:11], records[11:])]
    assert parts[0] + parts[1] == whole
    assert whole.examples + whole.dropped_too_long == 29
    assert 0 < whole.dropped_too_long < 29


@pytest.mark.parametrize(
    ("counts", "limit", "words"),
    [
        (
            Counts(18818, 1204, 2500000, 900000), 2048,
            "18,818 examples, 2,500,000 tokens (900,000 supervised); 1,204 of 20,022 left out (6.0 %), longer than 2,048 tokens",
        ),
        (Counts(1, 0, 1, 1), 9, "1 example, 1 token (1 supervised); none left out"),
        (Counts(99999, 1, 7, 3), None, "99,999 examples, 7 tokens (3 supervised); 1 of 100,000 left out (0.1 %), too long"),
        (Counts(1, 99999, 7, 3), 1, "1 example, 7 tokens (3 supervised); 99,999 of 100,000 left out (99.9 %), longer than 1 token"),
        (Counts(0, 5, 0, 0), 4, "0 examples, 0 tokens (0 supervised); 5 of 5 left out (100.0 %), longer than 4 tokens"),
    ],
)  # fmt: skip
def test_in_words(counts, limit, words):
    assert counts.in_words(limit) == words


def test_the_share_of_nothing_is_nothing():
    assert Counts(0, 0, 0, 0).dropped_share == 0
    assert Counts(3, 1, 0, 0).dropped_share == 0.25
