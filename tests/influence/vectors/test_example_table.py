"""Derivatives of single losses along vectors: those of finite differences and of a plain loop."""

import math
from typing import Any

import pytest
import torch

from corpus.jsonl import Example
from evaluation.landscape.slope_paths import SlopePaths
from evaluation.loss import losses
from evaluation.prepared import prepare
from influence.errors import InfluenceError, InfluenceStopped
from influence.gradients.examples import Examples, read_examples
from influence.vectors import example_table as module_under_test
from influence.vectors.example_table import ExampleTable, example_table
from merging import DistributionVector, LiveModel, View
from tests.evaluation.landscape.test_omega_gradient import NAMES, recipe

# PEFT says so of every adapter on GPT-2.
pytestmark = pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*")

RECORDS = [Example(f"the sum of {i} and {i * i} is", f" {i + 7}") for i in range(5)]
RECORDS += [Example("what is the colour of the sky", f" blue {'and ' * i}") for i in range(3)]


def slope_paths(live: LiveModel) -> SlopePaths:
    return SlopePaths(live.module, live.views, [live.vectors[name] for name in NAMES])


def plain_loop(live: LiveModel, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """⟨∇ℓ_e, Δ_j⟩ and ‖∇ℓ_e‖ from one backward pass for each example, with the deltas whole."""
    from evaluation.prepared import parts
    from merging.live.live_model import region

    held = dict(live.module.named_parameters(remove_duplicate=False))
    unique = {id(value): value for value in held.values()}
    slopes = torch.zeros(len(examples.records), len(NAMES), dtype=torch.float64)
    norms = torch.zeros(len(examples.records), dtype=torch.float64)
    live.module.requires_grad_(True)
    for batch in (part for whole in examples.batches for part in parts(whole, 1)):
        logits = live.module(input_ids=batch.ids).logits[0]
        picked = logits[batch.columns[batch.places]].to(torch.float64)
        loss = torch.nn.functional.cross_entropy(picked, batch.targets)
        found = torch.autograd.grad(loss, list(unique.values()), allow_unused=True)
        gradients = dict(zip(unique, found, strict=True))
        number = int(batch.examples[0])
        seen = set()
        for name, view in live.views.items():
            gradient = gradients[id(held[view.parameter])]
            if gradient is None or view in seen:
                continue
            seen.add(view)
            part = region(gradient, view).double()
            norms[number] += part.square().sum()
            for column, vector in enumerate(NAMES):
                if name in live.vectors[vector]:
                    slopes[number, column] += (part * live.vectors[vector][name]).sum()
    live.module.requires_grad_(False)
    return slopes, norms.sqrt()


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "gemma2", "mixtral"])
def test_they_are_those_of_a_plain_loop(
    family: str, opened: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in pieces of odd sizes, and where experts need a pass for each example (Mixtral)."""
    monkeypatch.setattr(module_under_test, "WIDE", 50_021)
    monkeypatch.setattr(module_under_test, "PIECE", 1009)
    monkeypatch.setattr(module_under_test, "TERMS", 101)
    live, examples = opened(family), read_examples(RECORDS, tokenizer, batch_tokens=67)
    live.apply(recipe(0.7, 0.4))
    got = example_table(slope_paths(live), examples)
    slopes, norms = plain_loop(live, examples)
    # The norms of the others compute in float32, and the experts of Mixtral know no float64.
    exact = 1e-9 if family == "gpt2" else 1e-5
    assert got.vectors == NAMES
    assert torch.allclose(got.slopes, slopes, rtol=0, atol=exact * float(slopes.abs().max()))
    assert torch.allclose(got.norms, norms, rtol=exact, atol=0)
    lengths = [
        math.sqrt(sum(float(vector[name].double().square().sum()) for name in vector))
        for vector in (live.vectors[name] for name in NAMES)
    ]
    cosines = slopes / norms[:, None] / torch.tensor(lengths, dtype=torch.float64)
    assert torch.allclose(got.cosines, cosines, rtol=0, atol=exact * float(cosines.abs().max()))
    assert cosines.abs().max() > 1e-3


def test_they_are_the_finite_differences(opened: Any, tokenizer: Any) -> None:
    """To four digits of the largest, of each example's own loss with respect to each ω."""
    live, examples = opened("gpt2"), read_examples(RECORDS, tokenizer)
    prepared, step, here = prepare({"all": RECORDS}, tokenizer), 0.01, (0.7, 0.4)

    def at(*omegas: float) -> torch.Tensor:
        live.apply(recipe(*omegas))
        (loss,) = losses(live.module, prepared)
        return torch.tensor(loss.sums, dtype=torch.float64) / torch.tensor(loss.counts)

    wanted = []
    for place in range(2):
        low2, low, high, high2 = (
            at(*(omega + by * step * (place == row) for row, omega in enumerate(here)))
            for by in (-2, -1, 1, 2)
        )
        wanted.append((low2 - 8 * low + 8 * high - high2) / (12 * step))
    plain = at(*here)
    got = example_table(slope_paths(live), examples)
    assert torch.allclose(got.losses, plain, rtol=1e-9)
    assert got.tokens.tolist() == list(examples.tokens)
    differences = torch.stack(wanted, dim=1)
    assert (got.slopes - differences).abs().max() < 1e-4 * differences.abs().max()


def test_a_tensor_that_fills_a_part_of_a_parameter_has_that_part_of_the_gradients() -> None:
    """As the files of fused experts: expert 2, its rows 1 to 3, with rows and columns swapped."""
    gradients = torch.randn(7, 3, 5, 11)
    view = View("experts", (2, (1, 4)), transposed=True)
    ((name, part),) = module_under_test._parts(gradients, [("experts.2.up", view)])
    assert name == "experts.2.up"
    assert part.equal(gradients[:, 2, 1:4].mT)


def test_batches_and_order_do_not_matter(opened: Any, tokenizer: Any) -> None:
    live = opened("gpt2")
    live.apply(recipe(0.7, 0.4))
    paths = slope_paths(live)
    together = example_table(paths, read_examples(RECORDS, tokenizer, batch_tokens=1000))
    alone = example_table(paths, read_examples(RECORDS[::-1], tokenizer, batch_tokens=1))
    assert torch.allclose(together.slopes, alone.slopes.flip(0), rtol=1e-9, atol=1e-12)
    assert torch.allclose(together.norms, alone.norms.flip(0), rtol=1e-9)


def test_a_vector_twice_as_long_has_twice_the_derivative_and_the_same_cosine(
    opened: Any, tokenizer: Any
) -> None:
    live, examples = opened("llama"), read_examples(RECORDS, tokenizer)
    live.apply(recipe(0.7, 0.4))
    full = live.vectors["full"]
    tuned = {name: live.base[name] + 2 * full[name] for name in live.base}
    twice = DistributionVector("twice", live.base, tuned)
    got = example_table(SlopePaths(live.module, live.views, [full, twice]), examples)
    assert torch.allclose(got.slopes[:, 1], 2 * got.slopes[:, 0], rtol=1e-6)
    assert torch.allclose(got.cosines[:, 1], got.cosines[:, 0], rtol=1e-6)


def test_the_module_is_left_as_it_was(opened: Any, tokenizer: Any) -> None:
    live, examples = opened("llama"), read_examples(RECORDS, tokenizer, batch_tokens=32)
    live.apply(recipe(0.7, 0.4))
    before = {name: value.clone() for name, value in live.module.state_dict().items()}
    asked, told = iter([False, True]), []
    with pytest.raises(InfluenceStopped, match=rf"stopped after 4 of {len(RECORDS)} examples"):
        example_table(
            slope_paths(live),
            examples,
            progress=lambda *numbers: told.append(numbers),
            should_stop=lambda: next(asked),
        )
    assert told == [(2, 8), (4, 8)]
    assert not any(value.requires_grad for value in live.module.parameters())
    assert all(value.equal(before[name]) for name, value in live.module.state_dict().items())


def test_vectors_without_a_direction_are_refused(opened: Any, tokenizer: Any) -> None:
    live, examples = opened("llama"), read_examples(RECORDS, tokenizer)
    same = DistributionVector("same", live.base, live.base)
    with pytest.raises(InfluenceError, match="same: equal to the base in every tensor"):
        example_table(SlopePaths(live.module, live.views, [same]), examples)
    with pytest.raises(InfluenceError, match="there are no vectors"):
        example_table(SlopePaths(live.module, live.views, []), examples)


def test_a_gradient_of_zero_has_no_cosine() -> None:
    zeros = torch.zeros(1, dtype=torch.float64)
    table = ExampleTable(("a",), zeros[:, None], zeros, zeros + 3, zeros, zeros + 1)
    assert table.cosines.isnan().all()
