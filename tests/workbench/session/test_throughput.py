"""The quick losses take a time and not a number of examples; what is left is told from what was measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.session.throughput import QUICK_COUNTS, Throughput, quick_counts

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


def test_what_is_left_by_hand():
    speed = Throughput()
    assert speed.seconds(7, 1_000) is None
    speed.composed(2.0)
    speed.composed(0.0)  # it stood already
    assert speed.seconds(7, 1_000) is None
    speed.measured(40, 1.0)
    speed.measured(60, 4.0)
    assert speed.seconds(2, 300) == 2 * 2.0 + 300 * 5 / 100
    assert speed.seconds(0, 0) == 0.0


def test_what_was_measured_long_ago_counts_less():
    speed = Throughput()
    speed.measured(1_000, 9.0)
    for _ in range(5):
        speed.measured(8_000, 8.0)  # 1,000 positions a second now
    assert speed.seconds(0, 1_000) == pytest.approx(1.0, rel=0.05)
