"""nan by numbers written out."""

import pytest
import torch


def test_weights_by_inverse_lengths(combine, close):
    # lengths of the weights: |1 + 0| = 1 and |1 + 2| = 3
    close(combine("nan", [[0.0], [2.0]], base=[1.0]), [0.75 * 0 + 0.25 * 2])


def test_lengths_of_the_deltas_instead(combine, close):
    close(combine("nan", [[1.0], [3.0]], base=[7.0], norm_of="deltas"), [0.75 * 1 + 0.25 * 3])
    close(combine("nan", [[1.0], [3.0]], norm_of="deltas", **{"lambda": 2.0}), [3.0])


def test_a_vector_of_zeros_has_no_part(combine, close):
    close(combine("nan", [[0.0], [3.0]], norm_of="deltas"), [3])
    close(combine("nan", [[0.0], [0.0]], norm_of="deltas"), [0])


def test_lengths_whose_inverse_float32_cannot_hold(combine):
    """Shares of 1/1 and 1/3 of anything: ¾ · 1 + ¼ · 3."""
    stack = [[1e-40], [3e-40]]
    found = combine("nan", stack, norm_of="deltas", dtype=torch.float32)
    assert found.item() == pytest.approx(1.5e-40, rel=1e-4)
