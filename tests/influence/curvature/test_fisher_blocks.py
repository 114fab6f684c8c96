"""K-FAC and EK-FAC of tiny models, against plain loops over examples in float64."""

import pytest
import torch
from torch import nn

from influence.curvature.exact import exact_curvature
from influence.curvature.fisher_blocks import fisher_blocks
from influence.curvature.layer_choice import choose_layers
from influence.errors import InfluenceError, InfluenceStopped

WEIGHTS = {"a": 0.7 / 5, "b": 0.3 / 5}


def alone(examples):
    """Each example of a set as a batch by itself, in order."""
    from evaluation.prepared import parts

    each = [part for batch in examples.batches for part in parts(batch, 1)]
    return sorted(each, key=lambda batch: int(batch.examples[0]))


def pseudo_gradient(model, batch, layer):
    """∇ Σ_t ℓ_t / √T of the data's own tokens, (outputs, inputs with the bias), by autograd."""
    logits = model(input_ids=batch.ids).logits[batch.rows, batch.columns[batch.places]]
    losses = nn.functional.cross_entropy(logits, batch.targets, reduction="sum")
    weight, bias = torch.autograd.grad(
        losses / len(batch.targets) ** 0.5, [layer.weight, layer.bias]
    )
    return torch.cat([weight.T if layer.transposed else weight, bias[:, None]], 1)


def test_corrected_eigenvalues_are_second_moments_of_example_gradients(language_model, sentences):
    """Λ against a batch-1 loop, for the empirical Fisher matrix, whose labels are known."""
    model = language_model("gpt2")
    layers, sets = choose_layers(model), sentences("ab")
    blocks = fisher_blocks(model, layers, sets, WEIGHTS, seed=None, damping=0.2)
    for path, layer in layers.items():
        expected = sum(
            WEIGHTS[name] * blocks[path].basis.rotate(pseudo_gradient(model, batch, layer)).square()
            for name, examples in sets.items()
            for batch in alone(examples)
        )
        torch.testing.assert_close(blocks[path].values, expected)
        assert blocks[path].damping == pytest.approx(0.2 * float(expected.mean()))
        q = blocks[path].basis.outputs
        torch.testing.assert_close(q.T @ q, torch.eye(len(q), dtype=torch.float64))


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_batches_do_not_matter(language_model, sentences, family, seed):
    """Drawn tokens, padding and order of batches change nothing."""
    model = language_model(family)
    layers = choose_layers(model, "all")
    together, apart = (
        fisher_blocks(model, layers, sentences("ab", size), WEIGHTS, seed=seed) for size in (1, 200)
    )
    for path in layers:
        torch.testing.assert_close(together[path].damping, apart[path].damping)
        gradients = torch.randn(
            2, *together[path].values.shape, dtype=torch.float64,
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        torch.testing.assert_close(
            together[path].solve(gradients), apart[path].solve(gradients), rtol=1e-6, atol=1e-9
        )


def test_another_seed_draws_other_tokens(language_model, sentences):
    model = language_model("llama")
    layers = choose_layers(model, "layers.1.mlp.down_proj")
    first, again, other = (
        fisher_blocks(model, layers, sentences("ab"), WEIGHTS, seed=seed) for seed in (1, 1, 2)
    )
    (path,) = layers
    assert torch.equal(first[path].values, again[path].values)
    assert not torch.allclose(first[path].values, other[path].values)


def test_one_layer_and_one_position_is_an_exact_kronecker_product(table_model, one_token_sets):
    """All examples have the same input, so E[xxᵀ ⊗ δδᵀ] = E[xxᵀ] ⊗ E[δδᵀ]; K-FAC is exact."""
    table = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    torch.manual_seed(0)
    model = table_model(table, nn.Linear(3, 4))
    sets = one_token_sets({"a": (torch.zeros(7, dtype=torch.long), torch.arange(7) % 4)})
    layers = choose_layers(model, "network")
    kfac, ekfac = (
        fisher_blocks(model, layers, sets, {"a": 1 / 7}, corrected=corrected)["network"]
        for corrected in (False, True)
    )
    torch.testing.assert_close(kfac.values, ekfac.values)


def test_drawn_tokens_give_the_gauss_newton_matrix(table_model, one_token_sets):
    """With many draws, the mean of Λ comes near the mean diagonal of the exact matrix."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    torch.manual_seed(1)
    model = table_model(table, nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)))
    rows = torch.arange(4000) % 20
    sets = one_token_sets({"a": (rows, rows % 5)})
    layers = choose_layers(model, "network")
    blocks = fisher_blocks(model, layers, sets, {"a": 1 / 4000})
    exact = exact_curvature(
        model, layers, one_token_sets({"a": (rows[:20], rows[:20] % 5)}), {"a": 1 / 20}
    )
    first = float(exact.damping[0]), float(exact.damping[-1])
    assert [block.damping for block in blocks.values()] == pytest.approx(first, rel=0.05)
    # The data's own classes have nothing to do with the model's, and give another matrix.
    own = fisher_blocks(model, layers, sets, {"a": 1 / 4000}, seed=None)
    assert [block.damping for block in own.values()] != pytest.approx(first, rel=0.1)


def test_a_layer_that_no_gradient_reaches_is_named(table_model, one_token_sets):
    """As LoRA's A while B is 0."""
    model = table_model(torch.eye(3), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3)))
    nn.init.zeros_(model.network[1].weight)
    sets = one_token_sets({"a": (torch.arange(3), torch.arange(3))})
    with pytest.raises(InfluenceError, match=r"curvature of network.0 .* leave the layer out"):
        fisher_blocks(model, choose_layers(model, "network"), sets, {"a": 1 / 3})


def test_it_can_be_stopped(language_model, sentences):
    model = language_model("llama")
    with pytest.raises(InfluenceStopped):
        fisher_blocks(
            model, choose_layers(model), sentences("ab"), WEIGHTS, should_stop=lambda: True
        )
