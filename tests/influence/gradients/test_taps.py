"""Taps: what is caught gives the gradients of autograd, and hooks end with their block."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from influence.errors import InfluenceError
from influence.gradients.taps import LayerTaps, linear_layers

IDS = torch.arange(3 * 7).reshape(3, 7) % 53


def modules(layers):
    return {path: layer.module for path, layer in layers.items()}


def loss(model, ids=IDS):
    """Any number that depends on all logits, with another weight for each."""
    logits = model(input_ids=ids, use_cache=False).logits
    return (logits * torch.linspace(-1, 1, logits.numel()).view(logits.shape)).sum()


def product(layer, caught):
    """The gradient of a weight for each example, by the formula at the head of the module."""
    if layer.transposed:
        return caught.inputs.mT @ caught.gradients
    return caught.gradients.mT @ caught.inputs


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen2"])
def test_inputs_times_output_gradients_are_autograds_gradients(build, family):
    model = build(family, torch.float64)
    layers = linear_layers(model, r"layers\.|h\.\d")
    with LayerTaps(modules(layers), IDS.shape) as taps:
        caught = taps.differentiate(loss(model))
    assert caught.keys() == layers.keys()
    assert all(parameter.grad is None for parameter in model.parameters())
    loss(model).backward()
    for path, layer in layers.items():
        ours = product(layer, caught[path])
        assert ours.shape == (3, *layer.weight.shape)
        close(ours.sum(0), layer.weight.grad)
        if layer.bias is not None:
            close(caught[path].gradients.sum((0, 1)), layer.bias.grad)


def test_each_example_has_the_gradient_that_it_has_alone(build):
    model = build("gpt2", torch.float64)
    layers = linear_layers(model, "c_attn")
    scales = torch.linspace(-1, 1, 3 * 7 * 53, dtype=torch.float64).view(3, 7, 53)
    with LayerTaps(modules(layers), IDS.shape) as taps:
        caught = taps.differentiate((model(input_ids=IDS).logits * scales).sum())
    for example in range(3):
        model.zero_grad()
        (model(input_ids=IDS[example : example + 1]).logits[0] * scales[example]).sum().backward()
        for path, layer in layers.items():
            close(product(layer, caught[path])[example], layer.weight.grad)


def test_frozen_weights_are_seen_and_stay_frozen(build):
    trained, frozen = build("llama"), build("llama").requires_grad_(False)
    for pattern in ("mlp", r"layers\.1.*down"):
        results = []
        for model in (trained, frozen):
            layers = linear_layers(model, pattern)
            with LayerTaps(modules(layers), IDS.shape) as taps:
                results.append(taps.differentiate(loss(model)))
        assert results[0].keys() == results[1].keys()
        for path, caught in results[0].items():
            assert torch.equal(caught.inputs, results[1][path].inputs)
            assert torch.equal(caught.gradients, results[1][path].gradients)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_calls_of_a_shared_layer_add_up():
    layer = nn.Linear(3, 3).double()
    shared = nn.Sequential(layer, nn.Tanh(), layer)
    inputs = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with LayerTaps(modules(linear_layers(shared)), (2, 5)) as taps:
        (caught,) = taps.differentiate(shared(inputs).square().sum()).values()
    assert caught.inputs.shape == caught.gradients.shape == (2, 10, 3)
    shared(inputs).square().sum().backward()
    close(product(linear_layers(shared)["0"], caught).sum(0), layer.weight.grad)


def test_an_output_that_is_changed_in_place_has_the_gradient_of_the_layer():
    layer = nn.Linear(2, 2).double()
    for required in (True, False):
        layer.requires_grad_(required)
        with LayerTaps({"it": layer}, (1, 3)) as taps:
            outputs = layer(torch.ones(1, 3, 2, dtype=torch.float64))
            outputs.mul_(5)
            caught = taps.differentiate(outputs.sum())["it"]
        assert torch.equal(caught.gradients, torch.full((1, 3, 2), 5.0, dtype=torch.float64))


def test_hooks_live_in_their_block_and_passes_without_gradients_are_not_caught(build):
    model = build("llama")
    layers = modules(linear_layers(model))

    def hooks():
        return sum(len(module._forward_hooks) for module in model.modules())

    before = hooks()
    loss(model)
    with LayerTaps(layers, IDS.shape) as taps:
        assert hooks() == before + len(layers)
        with torch.no_grad():
            loss(model, IDS + 1)
        assert not taps._calls  # or a long warm-up would hold all its activations
        loss(model, IDS + 1)  # a warm-up pass that nobody differentiates
        caught = taps.differentiate(loss(model))
        again = taps.differentiate(loss(model))
    assert hooks() == before
    assert caught["lm_head"].inputs.shape == (3, 7, 20)
    assert all(torch.equal(caught[path].inputs, again[path].inputs) for path in layers)
    with pytest.raises(ZeroDivisionError), LayerTaps(layers, IDS.shape):
        raise ZeroDivisionError
    assert hooks() == before


def test_the_position_embedding_of_the_whole_batch_has_gradients_of_each_example(build):
    model = build("gpt2", torch.float64)
    with LayerTaps({"wpe": model.transformer.wpe}, IDS.shape) as taps:
        caught = taps.differentiate(loss(model))["wpe"]
    assert caught.inputs.tolist() == [list(range(7))] * 3
    assert not torch.equal(caught.gradients[0], caught.gradients[1])
    loss(model).backward()
    close(caught.gradients.sum(0), model.transformer.wpe.weight.grad[:7])


def test_layers_are_chosen_by_training_or_by_pattern(build):
    model = build("llama", lora=True)
    factors = linear_layers(model)
    assert {path.rsplit(".", 2)[-2] for path in factors} == {"lora_A", "lora_B"}
    assert len(factors) == 2 * 2 * 7
    assert len(linear_layers(model, r"down_proj\.base_layer$")) == 2
    (first, *_) = linear_layers(build("gpt2"), "c_fc").values()
    assert first.transposed and first.weight.shape == (20, 29) and first.bias.shape == (29,)
    (head,) = linear_layers(build("llama"), "head").values()
    assert not head.transposed and head.bias is None
    with pytest.raises(
        InfluenceError, match=r"of this LlamaForCausalLM matches 'mpl'\. Its linear"
    ):
        linear_layers(model, "mpl")
    with pytest.raises(InfluenceError, match="is trained"):
        linear_layers(build("llama").requires_grad_(False))
    with pytest.raises(InfluenceError, match=r"the pattern of layers '\(' cannot be read"):
        linear_layers(model, "(")


def test_fused_experts_are_refused_by_name(build):
    with pytest.raises(InfluenceError, match=r"model\.layers\.0\.mlp\.experts \(MixtralExperts\)"):
        linear_layers(build("mixtral"), "mlp")


class Routed(nn.Module):
    """Sends some rows of the batch through a layer, as experts do."""

    def __init__(self):
        super().__init__()
        self.expert = nn.Linear(2, 2)

    def forward(self, inputs):
        return self.expert(inputs.flatten(0, 1)[1:])


def test_rows_of_unknown_examples_are_refused_by_name():
    routed = Routed()
    message = r"expert \(Linear\) reads \(14, 2\) and writes"
    with (
        LayerTaps({"expert": routed.expert}, (3, 5)),
        pytest.raises(InfluenceError, match=message),
    ):
        routed(torch.ones(3, 5, 2))
    with LayerTaps({"expert": routed.expert}, (1, 5)) as taps:
        caught = taps.differentiate(routed(torch.ones(1, 5, 2)).sum())
    assert caught["expert"].inputs.shape == (1, 4, 2)


def test_a_layer_of_two_inputs_is_refused_by_name():
    layer = nn.Bilinear(2, 2, 2)
    message = r"both \(Bilinear\) is called with 2 arguments"
    with LayerTaps({"both": layer}, (1, 3)), pytest.raises(InfluenceError, match=message):
        layer(torch.ones(1, 3, 2), torch.ones(1, 3, 2))


def test_a_layer_whose_weight_is_used_elsewhere_is_not_caught():
    layer = nn.Linear(2, 2)
    with LayerTaps({"it": layer}, (1, 3)) as taps:
        assert taps.differentiate(linear(torch.ones(1, 3, 2), layer.weight).sum()) == {}
