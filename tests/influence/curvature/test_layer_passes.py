"""What passes catch gives autograd's gradients, biases among them."""

import pytest
import torch

from influence.curvature.layer_choice import choose_layers
from influence.curvature.layer_passes import gradient_shape, layer_passes, wide_dtype
from influence.errors import InfluenceStopped
from influence.gradients.examples import mean_losses


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "opt"])
def test_gradients_are_those_of_autograd(language_model, sentences, family):
    model = language_model(family)
    layers, sets = choose_layers(model, "all"), sentences("a")
    caught = list(layer_passes(layers, sets, lambda name, batch: mean_losses(model, batch).sum()))
    assert sum(len(each.numbers) for each in caught) == 5
    assert len(caught) > 1
    total = sum(mean_losses(model, batch).sum() for batch in sets["a"].batches)
    for path, layer in layers.items():
        ours = sum(
            torch.einsum("epo,epi->oi", each.layers[path].gradients, each.layers[path].inputs)
            for each in caught
        )
        assert ours.shape == gradient_shape(layer)
        weight = torch.autograd.grad(total, layer.weight, retain_graph=True)[0]
        inputs = weight.shape[0] if layer.transposed else weight.shape[1]
        torch.testing.assert_close(ours[:, :inputs], weight.T if layer.transposed else weight)
        if layer.bias is not None:
            bias = torch.autograd.grad(total, layer.bias, retain_graph=True)[0]
            torch.testing.assert_close(ours[:, inputs], bias)


def test_half_precision_is_widened(language_model, sentences):
    model = language_model("gpt2").to(torch.bfloat16)
    passes = layer_passes(
        choose_layers(model), sentences("a"), lambda name, batch: mean_losses(model, batch).sum()
    )
    for inputs, gradients in next(passes).layers.values():
        assert inputs.dtype == gradients.dtype == torch.float32
    assert wide_dtype(model) == torch.float32


def test_stopping_between_batches(language_model, sentences):
    model = language_model("llama")
    asked = iter([False, True])
    passes = layer_passes(
        choose_layers(model),
        sentences("ab"),
        lambda name, batch: mean_losses(model, batch).sum(),
        lambda: next(asked),
    )
    next(passes)
    with pytest.raises(InfluenceStopped, match="stopped at a"):
        next(passes)
