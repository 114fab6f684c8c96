"""Validation examples that are in the pool are counted and named."""

from influence.selection.overlap import find_overlap


def test_overlap_by_hand(make_pool):
    pool = make_pool({"a": ["one", "two", "Two "], "b": ["three"]})
    targets = make_pool({"t": ["two", "four", "ONE"], "u": ["three", "five"], "v": ["six"]})
    overlap = find_overlap(pool, targets)
    assert overlap.pairs == ((0, 1), (2, 0), (3, 3))
    assert overlap.in_words == (
        "3 of 6 validation examples are in the pool, word for word (t 2 of 3, u 1 of 2): t, line 1 "
        "is a, line 2; t, line 3 is a, line 1; u, line 1 is b, line 1. A method finds them by their "
        "own text. Remove them from the pool or from the validation examples, unless they were "
        "planted."
    )


def test_no_overlap(make_pool):
    overlap = find_overlap(make_pool({"a": ["one"]}), make_pool({"t": ["two"]}))
    assert overlap.pairs == () and overlap.in_words == ""


def test_the_planted_copies_are_found(planted):
    pool, targets, rows = planted
    assert find_overlap(pool, targets).in_words.count("; ") == 3 and len(rows) == 10
    assert "; and 7 more. A method" in find_overlap(pool, targets).in_words
    assert [row for _, row in find_overlap(pool, targets).pairs] == rows
