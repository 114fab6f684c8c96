"""The numbers of a projection: the same on every machine, different for every parameter."""

import numpy as np
import pytest

from influence.projection.signs import draw_bits, signs_of, stream


def test_the_lowest_bit_comes_first():
    bits = np.array([[0b00000001], [0b11000000]], np.uint8)
    expected = [[0.5, *[-0.5] * 7], [*[-0.5] * 6, 0.5, 0.5]]
    assert signs_of(bits, 0.5, np.float32).tolist() == expected
    assert signs_of(bits, 0.5, np.float32).dtype == np.float32
    assert signs_of(bits, 0.5, np.float64).dtype == np.float64


def test_the_numbers_never_change():
    """A datastore that is scored next year has to be met by the same matrix."""
    assert draw_bits(stream(0, "w", "signs"), 1).tolist() == [230, 74, 99, 227, 4, 87, 120, 72]


@pytest.mark.parametrize("other", [(1, "w", "signs"), (0, "v", "signs"), (0, "w", "rows")])
def test_another_seed_parameter_or_purpose_has_independent_signs(other):
    one, two = (
        signs_of(draw_bits(stream(*key), 1000), 1.0, np.float64)
        for key in ((0, "w", "signs"), other)
    )
    assert abs(one.mean()) < 4 / 64000**0.5
    assert abs((one * two).mean()) < 4 / 64000**0.5


def test_a_stream_that_is_read_in_pieces_is_the_same():
    whole, pieces = stream(3, "w", "signs"), stream(3, "w", "signs")
    assert [*draw_bits(pieces, 3), *draw_bits(pieces, 5)] == draw_bits(whole, 8).tolist()
