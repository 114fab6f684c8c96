"""α of whole vectors: the derivative of the loss, its error, and how far two halves agree."""

import math
from typing import Any

import pytest
import torch

from corpus.jsonl import Example
from evaluation.landscape.omega_gradient import SlopeSweep
from evaluation.loss import losses
from evaluation.prepared import prepare
from influence.errors import InfluenceError
from influence.gradients.examples import read_examples
from influence.vectors.example_table import ExampleTable, example_table
from influence.vectors.proportions import proposed_omegas
from influence.vectors.vector_influence import vector_influence
from tests.evaluation.landscape.test_omega_gradient import DATA, NAMES, recipe
from tests.influence.vectors.test_example_table import slope_paths

# PEFT says so of every adapter on GPT-2.
pytestmark = pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*")


def table(slopes: list[list[float]], tokens: list[float] | None = None) -> ExampleTable:
    values = torch.tensor(slopes, dtype=torch.float64)
    ones = torch.ones(len(values), dtype=torch.float64)
    counts = ones if tokens is None else torch.tensor(tokens, dtype=torch.float64)
    names = tuple("abcdefg"[: values.shape[1]])
    return ExampleTable(names, values, ones, torch.ones(values.shape[1]), ones, counts)


def test_a_worked_example() -> None:
    """Mean of 1 and 3 is 2, s² = 2, so the error is √(2/2) = 1. By tokens (1·1 + 3·3)/4 = 2.5,
    residuals −1.5 and 1.5, variance 2 · 4.5 / 16 = 0.5625, error 0.75."""
    tables = {"ref": table([[1, -2], [3, -2]], [1, 3])}
    alike = vector_influence(tables)
    assert alike.alphas.tolist() == [[2, -2]] and alike.stderrs.tolist() == [[1, 0]]
    by_tokens = vector_influence(tables, alike="tokens")
    assert by_tokens.alphas.tolist() == [[2.5, -2]]
    assert by_tokens.stderrs.tolist() == [[0.75, 0]]
    assert (alike.references, alike.vectors, alike.counts) == (("ref",), ("a", "b"), (2,))


def test_it_is_the_derivative_of_the_loss(opened: Any, tokenizer: Any) -> None:
    """By tokens: that of the backward passes of the search, and the change that a step makes."""
    live = opened("gpt2")
    live.apply(recipe(0.7, 0.4))
    paths = slope_paths(live)
    tables = {
        name: example_table(paths, read_examples(records, tokenizer))
        for name, records in DATA.items()
    }
    got = vector_influence(tables, alike="tokens")
    prepared = prepare(DATA, tokenizer)
    for row, dataset in enumerate(prepared.datasets):
        sweep = SlopeSweep(paths, dataset)
        while not sweep.done:
            sweep.step()
        assert torch.allclose(got.alphas[row], sweep.slope().gradient, rtol=1e-9)
    before = [loss.value for loss in losses(live.module, prepared)]
    omegas, betas = dict(zip(NAMES, (0.7, 0.4), strict=True)), {"full": 0.001, "lora": -0.001}
    for row in range(2):
        alphas = dict(zip(NAMES, got.alphas[row].tolist(), strict=True))
        proposal = proposed_omegas(omegas, betas, alphas)
        live.apply(recipe(*proposal.omegas.values()))
        change = list(losses(live.module, prepared))[row].value - before[row]
        assert proposal.change == pytest.approx(change, rel=5e-3)


def test_the_error_is_that_of_repeated_draws() -> None:
    """The standard deviation of α over 2000 draws of 50 examples is the stated error."""
    torch.manual_seed(0)
    every = torch.randn(2000, 50, 3, dtype=torch.float64) * torch.tensor([1.0, 2, 5]) + 1
    found = [vector_influence({"ref": table(draw.tolist())}) for draw in every[:20]]
    stated = torch.stack([each.stderrs[0] for each in found]).mean(0)
    assert torch.allclose(every.mean(1).std(0), stated, rtol=0.08)


def test_halves_agree_where_examples_do() -> None:
    """Examples that order the vectors alike give nearly 1; pure noise gives nearly 0 or less."""
    torch.manual_seed(0)
    noise = torch.randn(60, 7, dtype=torch.float64)
    shared = noise * 0.1 + torch.arange(7.0)
    got = vector_influence({"same": table(shared.tolist()), "noise": table(noise.tolist())})
    assert got.agreement[0] > 0.99
    assert got.agreement[1] < 0.6
    again = vector_influence({"same": table(shared.tolist())})
    assert again.agreement[0] == got.agreement[0]


def test_too_little_to_split_or_to_err_is_nan() -> None:
    few = vector_influence({"ref": table([[1.0, 2], [3, 4], [5, 5]])})
    single = vector_influence({"ref": table([[1.0, 2]])})
    assert few.agreement.isnan().all() and single.stderrs.isnan().all()
    assert math.isnan(vector_influence({"ref": table([[1.0]] * 9)}).agreement[0])


def test_tables_of_different_vectors_are_refused() -> None:
    with pytest.raises(InfluenceError, match="x, y have tables of 2 lists of vectors"):
        vector_influence({"x": table([[1.0]]), "y": table([[1.0, 2]])})
    with pytest.raises(InfluenceError, match=r"the reference sets \(none\) have tables of 0"):
        vector_influence({})


def test_examples_without_tokens_do_not_exist(tokenizer: Any) -> None:
    """An example whose loss would be 0/0 never reaches a table."""
    with pytest.raises(InfluenceError, match="record 1: has no token to learn"):
        read_examples(
            [Example("the sum of 1 and 2 is", " 3")], tokenizer, max_length=3, too_long="cut"
        )
