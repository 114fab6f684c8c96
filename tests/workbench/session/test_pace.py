"""The quick losses take a time and not a number of examples, and more of the short ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.session.pace import QUICK_COUNTS, quick_counts

EQUAL = [50.0, 50.0]


@pytest.mark.parametrize(
    ("speed", "count"),
    [
        (13_400, 12),  # 1,200 positions in 0.09 s
        (13_300, 8),
        (1_000, 6),  # 0.6 s: too long, but fewer would say little
        (290, 4),  # six would take more than two seconds
        (1, 2),
    ],
)
def test_datasets_of_equal_length_have_equally_many_examples(speed, count):
    assert quick_counts(EQUAL, speed) == [count, count]


def test_the_worked_example_of_two_lengths():
    assert quick_counts([400.0, 100.0], 9_250) == [5, 9]


@given(
    st.lists(st.floats(1, 4_000), min_size=1, max_size=20),
    st.floats(1, 1e7),
    st.floats(1.01, 100),
)
def test_shorter_examples_and_faster_models_never_give_fewer(lengths, speed, faster):
    counts = quick_counts(lengths, speed)
    assert min(counts) >= QUICK_COUNTS[0]
    in_order = [count for _, count in sorted(zip(lengths, counts, strict=True))]
    assert in_order == sorted(counts, reverse=True)
    more = quick_counts(lengths, speed * faster)
    assert all(one <= other for one, other in zip(counts, more, strict=True))
