"""della_linear by numbers written out."""

import pytest
import torch

from merging.methods import _contract
from merging.methods._loops import drawn_from, stream

ROWS = [[[1.0, -2.0, 3.0], [9.0, 8.0, 7.0]]]


def test_the_keep_probability_rises_with_the_rank_in_the_row(combine):
    """At density 0.5 and epsilon 0.25: 0.25 for the smallest of a row, 0.5, and 0.75 for the largest."""
    chances = torch.tensor([[0.25, 0.5, 0.75], [0.75, 0.5, 0.25]])
    drawn = torch.from_numpy(drawn_from(stream(11, 0, 6))).view(2, 3)
    found = combine("della_linear", ROWS, seeds=(11,), density=0.5, epsilon=0.25, rescale=False)
    assert torch.equal(found, torch.tensor(ROWS[0], dtype=torch.float64) * (drawn < chances))


def test_rescaling_by_magnitude_and_by_density(combine):
    given = {"seeds": (11,), "density": 0.5, "epsilon": 0.25}
    bare = combine("della_linear", ROWS, rescale=False, **given)
    assert 0 < bare.abs().sum() < 30
    torch.testing.assert_close(
        combine("della_linear", ROWS, **given), bare * (30 / bare.abs().sum())
    )
    torch.testing.assert_close(
        combine("della_linear", ROWS, rescale_by="density", **given), bare * 2
    )


def test_a_row_of_one_entry_is_kept_with_the_density(combine):
    column = [[[1.0]] * 400]
    found = combine("della_linear", column, density=0.3, epsilon=0.2, rescale=False)
    assert 0.3 * 400 - 5 * 9.2 < found.sum() < 0.3 * 400 + 5 * 9.2


def test_the_ends_of_the_density(combine, close):
    close(combine("della_linear", [[3.0, 1.0]], density=0.0), [0, 0])
    close(combine("della_linear", [[3.0, 1.0]], density=1.0), [3, 1])


@pytest.mark.parametrize(
    ("density", "epsilon", "refused"),
    [
        (0.5, 0.15, False),
        (0.9, 0.15, True),
        (0.1, 0.15, True),
        (1.0, 0.15, False),
        (0.0, 0.15, False),
    ],
)
@pytest.mark.parametrize("name", ["della", "della_linear"])
def test_probabilities_outside_0_to_1_are_refused(name, density, epsilon, refused):
    arguments = {"density": (0.5, density), "epsilon": (0.1, epsilon), "normalize": False}
    found = _contract.load(name).refusal((1.0, 1.0), arguments)
    assert (found is not None) == refused
    if refused:
        assert (
            f"density {density:g} ± epsilon {epsilon:g} must lie between 0 and 1" in found
            and "below 0.1" in found
        )


def test_a_sum_of_0_is_refused_where_it_divides():
    arguments = {"density": (1.0, 1.0), "epsilon": (0.1, 0.1), "normalize": True}
    assert "sum to 0" in _contract.load("della_linear").refusal((1.0, -1.0), arguments)
    assert _contract.load("della").refusal((1.0, -1.0), arguments) is None
