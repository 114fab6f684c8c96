"""dare_linear by numbers written out."""

import pytest
import torch

from merging.methods import _contract
from merging.methods._loops import drawn_from, stream

DELTA = [2.0, -2.0, 4.0, 4.0, 1.0, -3.0, 5.0, 7.0]


def kept(seed, density):
    return torch.from_numpy(drawn_from(stream(seed, 0, len(DELTA))) < density).double()


def test_what_is_kept_is_scaled_to_the_sum_of_magnitudes(combine):
    delta, mask = torch.tensor(DELTA, dtype=torch.float64), kept(7, 0.5)
    assert 0 < mask.sum() < 8
    factor = 28 / (delta.abs() * mask).sum()
    torch.testing.assert_close(
        combine("dare_linear", [DELTA], seeds=(7,), density=0.5), delta * mask * factor
    )


def test_the_paper_divides_by_the_density(combine):
    delta, mask = torch.tensor(DELTA, dtype=torch.float64), kept(7, 0.25)
    found = combine("dare_linear", [DELTA], seeds=(7,), density=0.25, rescale_by="density")
    torch.testing.assert_close(found, delta * mask * 4)


def test_without_rescaling_entries_are_only_dropped(combine):
    delta, mask = torch.tensor(DELTA, dtype=torch.float64), kept(3, 0.5)
    assert torch.equal(
        combine("dare_linear", [DELTA], seeds=(3,), density=0.5, rescale=False), delta * mask
    )


def test_omegas_lambda_and_normalize(combine, close):
    close(
        combine("dare_linear", [[1.0], [2.0]], [1.0, 3.0], normalize=True, **{"lambda": 2.0}), [3.5]
    )


@pytest.mark.parametrize("rescale_by", ["l1", "density"])
def test_density_0_leaves_nothing(combine, close, rescale_by):
    close(combine("dare_linear", [DELTA], density=0.0, rescale_by=rescale_by), [0.0] * 8)


def test_a_delta_next_to_nothing_is_not_scaled_up(combine):
    found = combine("dare_linear", [[1e-9, 1e-9, 1e-9]], seeds=(0,), density=0.5)
    assert set(found.tolist()) <= {0.0, 1e-9}


def test_omegas_that_sum_to_0_cannot_be_divided_by():
    module = _contract.load("dare_linear")
    assert "sum to 0" in module.refusal((1.0, -1.0), {"normalize": True})
    assert module.refusal((1.0, -1.0), {"normalize": False}) is None
