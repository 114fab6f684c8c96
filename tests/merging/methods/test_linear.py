"""linear, model interpolation, by numbers written out and by its laws."""

import pytest
import torch

from merging.methods import linear
from merging.methods._values import Site

SITE = Site("w", torch.tensor([9.0, 9.0]))
TWO = torch.tensor([[1.0, 2.0], [4.0, 0.0]])


@pytest.mark.parametrize(
    ("omegas", "parameters", "expected"),
    [
        ((1.0, 3.0), {}, [3.25, 0.5]),
        ((1.0, 3.0), {"normalize": False}, [13.0, 2.0]),
        ((2.0, -1.0), {}, [-2.0, 4.0]),
    ],
)
def test_worked_examples(omegas, parameters, expected):
    assert (
        linear.combine(TWO.clone(), torch.tensor(omegas), SITE, **parameters).tolist() == expected
    )


def test_the_average_of_equal_weights_is_those_weights():
    same = torch.tensor([[0.1, -7.0]] * 4)
    assert torch.equal(linear.combine(same.clone(), torch.ones(4), SITE), same[0])


def test_only_the_ratio_of_the_omegas_counts():
    omegas = torch.tensor([1.0, 3.0])
    assert torch.equal(
        linear.combine(TWO.clone(), 4 * omegas, SITE), linear.combine(TWO.clone(), omegas, SITE)
    )


def test_the_base_plays_no_part():
    other = Site("w", torch.tensor([-1.0, 5.0]))
    omegas = torch.tensor([1.0, 2.0])
    assert torch.equal(
        linear.combine(TWO.clone(), omegas, SITE), linear.combine(TWO.clone(), omegas, other)
    )
