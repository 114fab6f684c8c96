"""Validation gradients that cannot be ranked against are refused by name."""

import pytest
import torch

from influence.datastore.targets import example_targets, subtask_targets
from influence.errors import InfluenceError
from tests.influence.datastore.conftest import settings

ASKED = settings(dimension=2)
ROWS = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-5.0, 0.0]])


def test_worked_example_of_both_readings():
    """Subtask a has (3, 4) and (−5, 0): unit vectors (0.6, 0.8) and (−1, 0), mean (−1, 2)."""
    for reading, expected in (
        ("mean_of_cos", [[0, 1], [-0.2, 0.4]]),
        ("cos_of_mean", [[0, 1], [-(5**-0.5), 2 * 5**-0.5]]),
    ):
        targets = subtask_targets(ASKED, [ROWS, 2 * ROWS], ["a", "b", "a"], ["b", "a"], reading)
        for target in targets:
            assert target.allclose(torch.tensor(expected)), reading


def test_examples_have_length_1_whatever_their_size():
    (tiny, huge) = example_targets(ASKED, [ROWS * 1e-30, ROWS * 1e30])
    assert tiny.allclose(torch.tensor([[0.6, 0.8], [0, 1], [-1, 0]]))
    assert huge.allclose(tiny)


@pytest.mark.parametrize(
    ("ids", "subtasks", "message"),
    [
        (["a", "b", "a"], ["a", "b", "c"], "No validation example belongs to 'c'"),
        (["a", "b", "a"], ["a"], "belong to 'b', which is not among the subtasks 'a'"),
        (["a", "b"], ["a", "b"], "2 subtasks were given for 3 validation examples"),
    ],
)
def test_subtasks_that_do_not_fit_are_refused(ids, subtasks, message):
    with pytest.raises(InfluenceError, match=message):
        subtask_targets(ASKED, [ROWS, ROWS], ids, subtasks, "mean_of_cos")


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_gradient_without_direction_is_refused_by_name(value):
    bad = ROWS.clone()
    bad[1] = value
    with pytest.raises(
        InfluenceError, match="gradient of validation example 2 at 'epoch 2' is zero or not finite"
    ):
        example_targets(ASKED, [ROWS, bad])


def test_a_subtask_whose_mean_is_zero_is_refused_by_name():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(InfluenceError, match="mean gradient of the validation subtask 'a' is zero"):
        subtask_targets(ASKED, [rows, rows], ["a", "a"], ["a"], "cos_of_mean")


@pytest.mark.parametrize(
    "validation",
    [[ROWS], [ROWS, ROWS[:2]], [ROWS, torch.ones(3, 3)], [ROWS, ROWS, ROWS]],
)
def test_gradients_that_do_not_fit_the_datastore_are_refused(validation):
    with pytest.raises(InfluenceError, match="one of 2 numbers .* 2 checkpoints .epoch 1, epoch 2"):
        example_targets(ASKED, validation)


@pytest.mark.parametrize("validation", [[], [ROWS[:0], ROWS[:0]]])
def test_no_validation_gradients_are_refused(validation):
    with pytest.raises(InfluenceError, match="There are no validation gradients"):
        example_targets(ASKED, validation)
