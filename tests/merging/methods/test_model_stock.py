"""model_stock by numbers written out."""

from math import sqrt

import pytest
import torch


def test_two_vectors(combine, close):
    c = sqrt(0.5)
    t = 2 * c / (1 + c)
    close(combine("model_stock", [[1.0, 0.0], [1.0, 1.0]]), [t, t / 2])


def test_three_vectors_use_the_mean_of_all_pairs(combine, close):
    # cosines 0, 0 and 1: c = 1/3, t = 3c / (1 + 2c) = 0.6
    close(combine("model_stock", [[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]]), [0.6 / 3, 0.6 * 5 / 3])


def test_orthogonal_vectors_leave_the_base(combine, close):
    close(combine("model_stock", [[1.0, 0.0], [0.0, 1.0]]), [0, 0])


def test_opposite_vectors_leave_the_base(combine, close):
    close(
        combine("model_stock", [[1.0, 2.0], [-3.0, -6.0]]), [0, 0]
    )  # 1 + c = 0, and the mean is not 0


def test_by_rows_each_has_its_own_share(combine, close):
    stack = [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]
    close(combine("model_stock", stack, filter_wise=True), [[1, 0], [0, 0]])
    close(combine("model_stock", [[1.0, 0.0], [1.0, 0.0]], filter_wise=True), [1, 0])


def test_small_and_huge_deltas_have_the_same_angles(combine):
    """mergekit's bound of 1e-6 on the product of the lengths would take c of the small ones to 0."""
    t = 2 * sqrt(0.5) / (1 + sqrt(0.5))
    for size in (1e-5, 1e-30, 1e30):
        found = combine("model_stock", [[size, 0.0], [size, size]], dtype=torch.float32) / size
        assert found.tolist() == pytest.approx([t, t / 2])
