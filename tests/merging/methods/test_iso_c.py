"""iso_c by numbers written out."""

import torch


def test_singular_values_become_their_mean(combine, close):
    close(combine("iso_c", [[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]), [[2, 0], [0, 2]])
    close(
        combine("iso_c", [[[0.0, 5.0], [1.0, 0.0]]], [2.0], **{"lambda": -0.5}), [[0, -3], [-3, 0]]
    )


def test_what_has_no_singular_vectors_is_averaged(combine, close):
    close(combine("iso_c", [[4.0, 2.0], [0.0, 1.0]], **{"lambda": 2.0}), [4, 3])
    close(combine("iso_c", [[[1.0, 3.0]], [[3.0, 1.0]]]), [[2, 2]])


def test_a_direction_that_the_sum_does_not_have_stays_zero(combine, close):
    close(combine("iso_c", [[[3.0, 0.0], [0.0, 0.0]]]), [[1.5, 0], [0, 0]])
    line = [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]  # of rank 1 and length √70
    found = combine("iso_c", [line], dtype=torch.float32)
    torch.testing.assert_close(found, torch.tensor(line) / 2)


def test_opposite_vectors_leave_the_base(combine, close):
    close(
        combine("iso_c", [[[3.0, 1.0], [1.0, 0.0]], [[-3.0, -1.0], [-1.0, 0.0]]]), [[0, 0], [0, 0]]
    )
