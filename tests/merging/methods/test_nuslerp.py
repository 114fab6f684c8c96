"""nuslerp by numbers written out."""

from math import cos, pi, sin, sqrt


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
