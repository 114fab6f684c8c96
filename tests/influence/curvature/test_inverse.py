"""Estimators of the inverse curvature, and groups of layers that fit into memory."""

import pytest
import torch

from influence.curvature.inverse import CurvatureOptions, inverse_curvature, layer_groups
from influence.curvature.layer_choice import choose_layers
from influence.errors import InfluenceError


def test_identity_leaves_gradients_as_they_are(language_model, sentences):
    model = language_model("llama")
    solve, spread = inverse_curvature(
        model, choose_layers(model), sentences("a"), {"a": 0.2}, CurvatureOptions("identity")
    )
    gradients = {"x": torch.ones(1, 2, 3)}
    assert solve(gradients) == gradients
    assert spread == {}


def test_spread_is_that_of_the_eigenvalues(language_model, sentences):
    model = language_model("llama")
    layers = choose_layers(model)
    for estimator in ("ekfac", "kfac"):
        _, spread = inverse_curvature(
            model, layers, sentences("a"), {"a": 0.2}, CurvatureOptions(estimator)
        )
        assert spread.keys() == layers.keys()
        assert all(value > 0 for value in spread.values())


def test_groups_by_hand(language_model):
    """17 × 12, 17 × 12 and 12 × 17 weights in each of two layers.

    2·(144 + 289) + (2·3 + 1)·204 = 2294 numbers of 4 bytes for each.
    """
    layers = choose_layers(language_model("llama"))

    def sizes(memory, estimator="ekfac"):
        options = CurvatureOptions(estimator, memory=memory)
        groups = list(layer_groups(layers, 3, options))
        assert [path for group in groups for path in group] == list(layers)
        return [len(group) for group in groups]

    assert sizes(2**32) == [6]
    assert sizes(4 * 4 * 2294) == [4, 2]
    assert sizes(4 * 4 * 2294 - 1) == [3, 3]
    assert sizes(1) == [1] * 6
    assert sizes(1, "exact") == [6]


def test_an_unknown_estimator_is_told():
    with pytest.raises(InfluenceError, match="'ekfca'; expected one of ekfac, kfac, exact"):
        CurvatureOptions("ekfca")
