"""Which layers are chosen, in models of several families."""

import pytest

from influence.curvature.layer_choice import choose_layers, steadiest
from influence.errors import InfluenceError


@pytest.mark.parametrize(
    ("family", "mlp", "every"),
    [("llama", 6, 14), ("qwen2", 6, 14), ("gpt2", 4, 8), ("opt", 4, 12)],
)
def test_feed_forward_layers_and_all_but_the_head(language_model, family, mlp, every):
    """GPT-2's Conv1D is seen like any other layer."""
    model = language_model(family)
    chosen = choose_layers(model)
    assert len(chosen) == mlp
    assert not any("attn" in path for path in chosen)
    layers = choose_layers(model, "all")
    assert len(layers) == every
    assert chosen.keys() < layers.keys()
    assert "lm_head" not in layers
    assert list(choose_layers(model, "lm_head")) == ["lm_head"]


def test_trained_layers(language_model):
    model = language_model("llama").requires_grad_(False)
    model.model.layers[1].mlp.up_proj.requires_grad_(True)
    assert list(choose_layers(model, "trained")) == ["model.layers.1.mlp.up_proj"]


def test_experts_that_cannot_be_seen_are_refused(language_model):
    with pytest.raises(InfluenceError, match="inputs cannot be seen"):
        choose_layers(language_model("mixtral"))


def test_the_steadiest_by_hand():
    spread = {"a": 3.0, "b": 0.5, "c": 2.0}
    assert steadiest(spread, 2) == {"b", "c"}
    assert steadiest(spread, None) == {"a", "b", "c"}
    with pytest.raises(InfluenceError, match="4 layers are to be kept of 3; expected 1 to 3"):
        steadiest(spread, 4)
