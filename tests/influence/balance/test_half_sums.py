"""Sums of gradients over halves, against the mean gradients of autograd."""

import pytest
import torch

from influence.balance.half_sums import half_sums
from influence.curvature.layer_choice import choose_layers
from influence.errors import InfluenceStopped
from influence.gradients.domain_means import mean_gradient
from influence.gradients.examples import mean_losses


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_both_halves_together_are_the_mean_gradient(language_model, sentences, family):
    model = language_model(family)
    layers, sets = choose_layers(model), sentences("ab")
    sums = half_sums(model, layers, sets)
    assert sums.counts.tolist() == [[3, 3], [2, 2]]
    for number, examples in enumerate(sets.values()):
        expected = mean_gradient(model, examples)
        for path, layer in layers.items():
            weight = expected[f"{path}.weight"]
            mean = sums.gradients[path][:, number].sum(0) / 5
            inputs = 17 if mean.shape[1] >= 17 else 12
            torch.testing.assert_close(mean[:, :inputs], weight.T if layer.transposed else weight)
            if layer.bias is not None:
                torch.testing.assert_close(mean[:, inputs], expected[f"{path}.bias"])


def test_a_half_has_the_examples_that_its_seed_gives(language_model, sentences):
    """Each half is the sum over a subset, which batches do not change and another seed does."""
    model = language_model("llama")
    path = "model.layers.1.mlp.up_proj"
    layers = choose_layers(model, path)
    from evaluation.prepared import parts

    examples = sentences("a")["a"]
    alone = {}
    for batch in (part for each in examples.batches for part in parts(each, 1)):
        loss = mean_losses(model, batch).sum()
        alone[int(batch.examples[0])] = torch.autograd.grad(loss, layers[path].weight)[0]

    def members(seed, size):
        half = half_sums(model, layers, sentences("a", size), seed=seed).gradients[path][0, 0]
        subsets = [
            {a, b, c} for a in range(5) for b in range(a) for c in range(b)
            if torch.allclose(alone[a] + alone[b] + alone[c], half)
        ]  # fmt: skip
        (subset,) = subsets
        return subset

    assert members(0, 1) == members(0, 200)
    assert len({tuple(sorted(members(seed, 200))) for seed in range(6)}) > 1


def test_it_can_be_stopped(language_model, sentences):
    model = language_model("llama")
    with pytest.raises(InfluenceStopped):
        half_sums(model, choose_layers(model), sentences("a"), should_stop=lambda: True)
