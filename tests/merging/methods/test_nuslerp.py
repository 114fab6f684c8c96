"""nuslerp by numbers written out."""

from math import cos, pi, sin, sqrt

import pytest
import torch


def test_t_is_the_share_of_the_second(combine, close):
    close(combine("nuslerp", [[2.0, 0.0], [0.0, 2.0]]), [sqrt(2), sqrt(2)])
    close(combine("nuslerp", [[1.0, 0.0], [0.0, 1.0]], [2.0, 1.0]), [cos(pi / 6), sin(pi / 6)])
    close(
        combine("nuslerp", [[1.0, 0.0], [0.0, 1.0]], [1.0, -1.0]), [sqrt(0.5), sqrt(0.5)]
    )  # no share: a half


def test_rows_and_columns_each_turn_by_themselves(combine, close):
    one, other = [[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]
    close(combine("nuslerp", [one, other], nuslerp_flatten=False), [[sqrt(0.5), sqrt(0.5)], [1, 0]])
    turned = [[[1.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]
    found = combine("nuslerp", turned, nuslerp_flatten=False, nuslerp_row_wise=True)
    close(found, [[sqrt(0.5), 1], [sqrt(0.5), 0]])


def test_the_axis_does_not_count_when_flattened(combine, close):
    one, other = [[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]
    h = sqrt(0.5)
    close(combine("nuslerp", [one, other], nuslerp_row_wise=True), [[h, h], [h, h]])


def test_parallel_vectors_and_zeros_are_lines(combine, close):
    close(combine("nuslerp", [[1.0, 1.0], [3.0, 3.0]], [3.0, 1.0]), [1.5, 1.5])
    close(combine("nuslerp", [[0.0], [0.0]]), [0])


@pytest.mark.parametrize("given", [{}, {"nuslerp_flatten": False}])
def test_opposite_rows_are_a_line_in_float32_too(combine, given):
    """(1 − 0.7) / 2 of v; 1/sin φ of the rounded 0.7v would make it thousands of times larger."""
    row = [0.8, 0.2, 0.1, -0.6, 0.0]
    found = combine("nuslerp", [row, [-0.7 * x for x in row]], dtype=torch.float32, **given)
    torch.testing.assert_close(found, torch.tensor(row) * 0.15, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("given", [{}, {"nuslerp_flatten": False}])
def test_lengths_beyond_float32s_squares(combine, given):
    for size in (1e30, 1e-9, 1e-30):
        stack = [[size, 0.0], [size, size]]
        found = combine("nuslerp", stack, dtype=torch.float32, **given) / size
        share = sin(pi / 8) / sin(pi / 4)
        assert found.tolist() == pytest.approx([2 * share, share])


def test_a_share_of_tiny_weights_is_a_share(combine, close):
    close(combine("nuslerp", [[1.0], [2.0]], [1e-7, 3e-7]), [1.75])
