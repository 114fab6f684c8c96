"""karcher by numbers written out."""

from math import sqrt

import pytest
import torch


def test_the_mean_of_two_is_half_way_at_their_mean_length(combine, close):
    close(combine("karcher", [[2.0, 0.0], [0.0, 4.0]]), [3 * sqrt(0.5), 3 * sqrt(0.5)])


def test_the_logarithms_cancel_at_the_mean(combine):
    """What defines it: Σ θ/sin θ · (u − cos θ · m) = 0."""
    generator = torch.Generator().manual_seed(4)
    stack = torch.rand(5, 7, generator=generator, dtype=torch.float64)
    mean = combine("karcher", stack.tolist(), max_iter=200, tol=1e-12)
    assert mean.norm() == pytest.approx(stack.norm(dim=1).mean().item())
    mean = mean / mean.norm()
    units = stack / stack.norm(dim=1, keepdim=True)
    dots = units @ mean
    angles = torch.acos(dots)
    logarithms = (angles / torch.sin(angles))[:, None] * (units - dots[:, None] * mean)
    assert logarithms.sum(0).abs().max() < 1e-10


def test_zeros_count_for_the_length_only(combine, close):
    close(combine("karcher", [[2.0, 0.0], [0.0, 0.0]]), [1, 0])
    close(combine("karcher", [[0.0], [0.0]]), [0])


def test_one_is_itself_and_opposites_keep_the_first(combine, close):
    close(combine("karcher", [[3.0, 4.0]]), [3, 4])
    found = combine("karcher", [[1.0, 0.0], [-1.0, 0.0]], max_iter=0)
    close(found, [1, 0])
