"""Scores against a plain loop in float64, worked examples, and their invariances."""

import numpy as np
import pytest
import torch

from influence.datastore.scores import example_scores, subtask_scores
from influence.errors import InfluenceError
from tests.influence.datastore.conftest import gradients, settings, written

IDS = ["a", "b", "a", "c", "a"]


def cosine(x, y):
    return float(x @ y) / (float(x @ x) ** 0.5 * float(y @ y) ** 0.5)


def validation(asked, dtype=torch.float64):
    """Gradients of five validation examples at each checkpoint."""
    return list(gradients(asked, seed=1)[:, : len(IDS)].to(dtype))


def plain(asked, values, targets, reading, centre):
    """Definition 3.1 of LESS by loops in float64: (examples, examples or subtasks)."""
    rates = [checkpoint.mean_rate for checkpoint in asked.checkpoints]
    total = 0.0
    for rate, rows, wanted in zip(rates, values, targets, strict=True):
        rows = rows - rows.mean(0) if centre else rows
        groups = {
            "examples": [[row] for row in wanted],
            "mean_of_cos": [
                [row for row, name in zip(wanted, IDS, strict=True) if name == group]
                for group in "abc"
            ],
        }
        groups["cos_of_mean"] = [[torch.stack(group).mean(0)] for group in groups["mean_of_cos"]]
        scores = [
            [np.mean([cosine(row, target) for target in group]) for group in groups[reading]]
            for row in rows
        ]
        total = total + rate / sum(rates) * np.array(scores)
    return total


def test_worked_example(tmp_path):
    """Rates 3 and 1 weigh the checkpoints 0.75 and 0.25; the cosines are 1, 0.6, 0 and −1."""
    asked = settings(sources=(("cot", 2),), rates=(3.0, 1.0), dimension=2)
    store = written(tmp_path, asked, torch.tensor([[[5.0, 0], [3, 4]], [[0, 2], [-7, 0]]]))
    wanted = [torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])]
    expected = [[0.75 * 1 + 0.25 * 0, 0.75 * 0 + 0.25 * 1], [0.75 * 0.6 - 0.25, 0.75 * 0.8]]
    assert np.allclose(example_scores(store, wanted), expected, atol=1e-3)  # float16
    scores = subtask_scores(store, wanted, ["x", "y"])
    assert scores.subtasks == ("x", "y")
    assert np.allclose(scores.values, expected, atol=1e-3)
    assert np.allclose(scores.highest(), [0.75, 0.6], atol=1e-3)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("reading", ["mean_of_cos", "cos_of_mean", "examples"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_scores_are_those_of_a_plain_loop(dtype, tolerance, reading, centre, small):
    """Rows are stored in float32 here, so they are exact to 1e-7 also in float64."""
    store, values = small
    asked = store.settings
    wanted = validation(asked, dtype)
    expected = plain(asked, values, validation(asked), reading, centre)
    if reading == "examples":
        found = example_scores(store, wanted, centre=centre)
    else:
        found = subtask_scores(store, wanted, IDS, reading=reading, centre=centre).values
    assert found.dtype == str(dtype).removeprefix("torch.")
    assert np.abs(expected).max() > 0.3
    assert np.abs(found - expected).max() < tolerance


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_blocks_do_not_change_scores(dtype, tolerance, centre, small):
    store, _ = small
    wanted = validation(store.settings, dtype)
    whole = subtask_scores(store, wanted, IDS, centre=centre).values
    for block in (1, 3, 11):
        found = subtask_scores(store, wanted, IDS, centre=centre, block=block).values
        assert np.abs(found - whole).max() < tolerance


def test_the_order_of_the_pool_does_not_change_scores(tmp_path, small):
    store, values = small
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    other = written(tmp_path / "other", store.settings, values[:, order])
    wanted = validation(store.settings)
    assert np.allclose(
        example_scores(other, wanted, centre=True),
        example_scores(store, wanted, centre=True)[order],
        atol=1e-10,
    )


def test_float16_moves_scores_by_less_than_a_thousandth(tmp_path, small):
    store, values = small
    half = written(tmp_path / "half", settings(), values)
    wanted = validation(store.settings)
    difference = np.abs(example_scores(half, wanted) - example_scores(store, wanted)).max()
    assert 0 < difference < 1e-3


def test_subtasks_have_the_order_of_their_first_example_or_the_one_asked_for(small):
    store, _ = small
    wanted = validation(store.settings)
    found = subtask_scores(store, wanted, ["c", "a", "c", "b", "c"])
    assert found.subtasks == ("c", "a", "b")
    again = subtask_scores(store, wanted, ["c", "a", "c", "b", "c"], subtasks=["a", "b", "c"])
    assert again.subtasks == ("a", "b", "c")
    assert np.array_equal(again.values, found.values[:, [1, 2, 0]])
    assert np.array_equal(found.highest(), again.highest())
    with pytest.raises(InfluenceError, match="No validation example belongs to 'd'"):
        subtask_scores(store, wanted, IDS, subtasks=["a", "b", "c", "d"])


def test_a_matrix_in_a_file_is_the_one_in_memory(small, tmp_path):
    store, _ = small
    wanted = validation(store.settings, torch.float32)
    mapped = example_scores(store, wanted, tmp_path / "scores.npy", block=4)
    assert isinstance(mapped, np.memmap) and mapped.dtype == np.float32
    assert np.allclose(mapped, example_scores(store, wanted), atol=1e-6)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["scores.npy"]


def test_a_matrix_that_cannot_be_computed_leaves_no_file(tmp_path):
    values = gradients(settings())
    values[0, 4] = 0
    store = written(tmp_path / "store", settings(), values)
    with pytest.raises(
        InfluenceError, match="cosine of a zero gradient is undefined, and 1 .* example 2 of 'p3'"
    ):
        example_scores(store, validation(settings()), tmp_path / "scores.npy")
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_a_gradient_that_centring_makes_zero_is_refused_by_name(tmp_path):
    """Two equal gradients: their mean is each of them. (1, 0) has an exact length."""
    asked = settings(sources=(("cot", 2),), rates=(1.0,), dimension=2)
    same = written(tmp_path, asked, torch.tensor([[[1.0, 0], [1, 0]]]))
    with pytest.raises(
        InfluenceError, match="gradient of example 1 of 'cot' at 'epoch 1' is the mean"
    ):
        example_scores(same, [torch.ones(1, 2)], centre=True)


@pytest.mark.parametrize("rates", [(0.0, 0.0), (1.0, -0.5)])
def test_rates_that_cannot_weigh_are_refused(rates, tmp_path):
    asked = settings(rates=rates)
    store = written(tmp_path, asked, gradients(asked))
    with pytest.raises(InfluenceError, match="none may be negative and one must be more than 0"):
        example_scores(store, validation(asked))
