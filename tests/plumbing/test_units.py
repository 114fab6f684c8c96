"""Numbers as a reader sees them."""

import math

import pytest

from plumbing.units import counted, number, percent, seconds, size


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (21_480_000, "21.5 MB"),
        (4e12, "4.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_bytes_in_units_of_1000(nbytes, text):
    assert size(nbytes) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.44, "0.4 s"), (9.96, "10.0 s"), (12.3, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(value, text):
    assert seconds(value) == text


def test_shares_and_measured_numbers_have_a_true_minus_sign():
    assert [percent(share) for share in (0.525, -0.1, -0.001)] == ["52 %", "−10 %", "0 %"]
    assert [number(value) for value in (0.5, -1.25, math.nan)] == ["0.500", "−1.250", "—"]
    assert number(-1.256, 2) == "−1.26"


def test_a_count_with_its_noun():
    assert [counted(count, "token") for count in (0, 1, 2, 1234)] == [
        "0 tokens",
        "1 token",
        "2 tokens",
        "1,234 tokens",
    ]
