"""metagpt by numbers written out."""

import pytest
import torch

from merging import DistributionVector, Recipe
from merging.engine.loop import merge
from merging.engine.tasks import tasks
from merging.methods.metagpt import closed_form
from merging.recipe.formula import formula


def test_shares_of_the_squared_lengths():
    assert closed_form((1.0, 4.0)) == (0.2, 0.8)
    assert closed_form((0.0, 0.0)) == (0.0, 0.0)


def test_lengths_are_those_of_the_whole_model():
    """‖Δ_a‖² = 1 + 4 and ‖Δ_b‖² = 16 + 4 over both tensors: ω = 0.2 and 0.8."""
    base = {"x": torch.zeros(1), "y": torch.zeros(1)}
    tuned = {"a": (1.0, 2.0), "b": (4.0, 2.0)}
    vectors = {
        name: DistributionVector(name, base, {"x": torch.tensor([x]), "y": torch.tensor([y])})
        for name, (x, y) in tuned.items()
    }
    recipe = Recipe.compose("base", {"a": "a", "b": "b"}, method="metagpt")
    assert [task.omegas for task in tasks(recipe, base, vectors)] == [pytest.approx((0.2, 0.8))] * 2
    merged = dict(merge(recipe, base, vectors))
    assert merged["x"].tolist() == pytest.approx([3.4]) and merged["y"].tolist() == pytest.approx(
        [2.0]
    )
    assert formula(recipe) == "Θ + metagpt(Δa, Δb)"


def test_lambda_is_a_factor(combine, close):
    close(combine("metagpt", [[1.0], [2.0]], [0.2, 0.8], **{"lambda": 0.5}), [0.9])
