"""The dense Gauss-Newton matrix, against autograd's Hessian."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from transformers.pytorch_utils import Conv1D

from influence.curvature import exact
from influence.curvature.exact import exact_curvature
from influence.curvature.layer_choice import choose_layers
from influence.errors import InfluenceError, InfluenceStopped

WEIGHTS = {"a": 0.6 / 7, "b": 0.4 / 6}


@pytest.fixture
def problem(table_model, one_token_sets):
    """A linear classifier of 13 rows with 3 features into 4 classes, and two sets."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(13, 3, generator=generator, dtype=torch.float64)
    classes = torch.randint(4, (13,), generator=generator)
    torch.manual_seed(1)
    model = table_model(table, nn.Linear(3, 4))
    rows = torch.arange(13)
    return model, {"a": (rows[:7], classes[:7]), "b": (rows[7:], classes[7:])}, one_token_sets


def test_of_a_linear_model_it_is_the_hessian(problem):
    model, data, one_token_sets = problem
    curvature = exact_curvature(
        model, choose_layers(model, "network"), one_token_sets(data, 4), WEIGHTS, damping=0.2
    )

    def loss(joined):
        parameters = {"weight": joined[:, :3], "bias": joined[:, 3]}
        losses = {
            name: nn.functional.cross_entropy(
                functional_call(model.network, parameters, (model.table.weight[rows],)),
                classes,
                reduction="sum",
            )
            for name, (rows, classes) in data.items()
        }
        return sum(WEIGHTS[name] * losses[name] for name in losses)

    joined = torch.cat([model.network.weight, model.network.bias[:, None]], 1).detach()
    expected = hessian(loss)(joined).view(16, 16)
    torch.testing.assert_close(curvature.matrix, expected)
    assert curvature.shapes == {"network": (4, 4)}
    # λ is a share of the mean eigenvalue, which is the mean of the diagonal.
    eigenvalues = torch.linalg.eigvalsh(expected)
    torch.testing.assert_close(curvature.damping, 0.2 * eigenvalues.mean().expand(16))
    gradients = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(2)).double()
    damped = expected + curvature.damping.diag()
    solved = torch.linalg.solve(damped, gradients.flatten(1).T).T.view(3, 4, 4)
    torch.testing.assert_close(curvature.solve({"network": gradients})["network"], solved)


def test_a_transposed_weight_gives_the_same_matrix(problem, table_model):
    model, data, one_token_sets = problem
    turned = Conv1D(4, 3)
    turned.weight = nn.Parameter(model.network.weight.T.clone())
    turned.bias = model.network.bias
    other = table_model(model.table.weight.detach(), turned)
    sets = one_token_sets(data)
    first, second = (
        exact_curvature(each, choose_layers(each, "network"), sets, WEIGHTS).matrix
        for each in (model, other)
    )
    torch.testing.assert_close(first, second)


def traces(model, batch, x):
    """|x|²·(1 − Σp²) / T of each token of a batch."""
    with torch.no_grad():
        logits = model(input_ids=batch.ids).logits
    for row, place in zip(batch.rows, batch.places, strict=True):
        column, count = batch.columns[place], int((batch.rows == row).sum())
        p = logits[row, column].softmax(-1)
        yield float(x[-1][row, column].square().sum() * (1 - p.square().sum())) / count


def test_tokens_of_one_example_are_averaged(language_model, sentences):
    """The trace of the last layer's block by a loop over tokens: Σ_t |x|²·(1 − Σp²) / T."""
    model, sets = language_model("llama"), sentences("a")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach()[:11].clone())  # untied
    curvature = exact_curvature(model, choose_layers(model, "lm_head"), sets, {"a": 0.2})
    seen = []
    model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    expected = sum(sum(traces(model, batch, seen)) for batch in sets["a"].batches)
    assert float(curvature.matrix.trace()) == pytest.approx(0.2 * expected)


def test_too_many_weights_are_refused_before_the_work(problem, monkeypatch):
    model, data, one_token_sets = problem
    monkeypatch.setattr(exact, "LARGEST", 15)
    with pytest.raises(InfluenceError, match="16 weights is a matrix .* or take ekfac"):
        exact_curvature(model, choose_layers(model, "network"), one_token_sets(data), WEIGHTS)


def test_it_can_be_stopped(problem):
    model, data, one_token_sets = problem
    layers = choose_layers(model, "network")
    with pytest.raises(InfluenceStopped, match="stopped at a"):
        exact_curvature(model, layers, one_token_sets(data), WEIGHTS, should_stop=lambda: True)
