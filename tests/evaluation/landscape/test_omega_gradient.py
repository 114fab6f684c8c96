"""Derivatives of losses with respect to ω: those of finite differences, on real architectures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus.jsonl import Example
from evaluation import loss as measured
from evaluation.errors import Stopped
from evaluation.landscape.omega_gradient import SlopeSweep
from evaluation.landscape.slope_paths import SlopePaths
from evaluation.loss import losses
from evaluation.model import load
from evaluation.prepared import prepare
from merging import Checkpoint, LiveModel, Recipe, in_memory, open_vector

NAMES = ("full", "lora")
DATA = {
    "sums": [Example(f"the sum of {i} and 7 is", f" {i + 7}") for i in range(9)],
    "skies": [Example("what is the colour of the sky", f" blue {i}") for i in range(4)],
}
MATRICES = {"gpt2": ["c_attn", "c_proj", "c_fc"], "phi": ["q_proj", "fc1", "dense"]}


def adapter(base: Path, folder: Path, targets: list[str]) -> None:
    """As PEFT makes and saves it, with a B that is not 0."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=3, lora_alpha=5, target_modules=targets, task_type="CAUSAL_LM"),
    )
    torch.manual_seed(3)
    for name, value in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.1)
    model.save_pretrained(folder, save_embedding_layers=False)


@pytest.fixture
def opened(build: Callable[..., Any], tmp_path: Path) -> Any:
    """opened(family): a live model in float64 of a full fine-tuned vector and an adapter."""

    def make(family: str) -> Any:
        # The backward pass of torch's grouped products wants rows of multiples of 16 bytes.
        changes = {"intermediate_size": 56} if family == "mixtral" else {}
        dtype = torch.float32 if family == "mixtral" else torch.float64  # they know no float64
        base = tmp_path / "base"
        build(family, **changes).to(dtype).save_pretrained(base)
        tuned = build(family, **changes).to(dtype)
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in tuned.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.03)
        tuned.save_pretrained(tmp_path / "full")
        adapter(base, tmp_path / "lora", MATRICES.get(family, ["q_proj", "v_proj", "down_proj"]))
        checkpoint = Checkpoint(base)
        loaded = load(base, checkpoint=checkpoint)
        weights = in_memory(checkpoint)
        vectors = {name: open_vector(tmp_path / name, checkpoint, name) for name in NAMES}
        return LiveModel(loaded.module, weights, vectors, loaded.views)

    return make


def recipe(*omegas: float) -> Recipe:
    return Recipe.compose(
        "base", {name: name for name in NAMES}, dict(zip(NAMES, omegas, strict=True))
    )


def found(live: LiveModel, prepared: Any) -> list[Any]:
    vectors = [live.vectors[name] for name in NAMES]
    return swept(SlopePaths(live.module, live.views, vectors), prepared)


def swept(paths: SlopePaths, prepared: Any, stop: Callable[[], bool] | None = None) -> list[Any]:
    """The slopes on each dataset."""
    found = []
    for dataset in prepared.datasets:
        sweep = SlopeSweep(paths, dataset)
        while not sweep.done:
            sweep.step(stop)
        found.append(sweep.slope())
    return found


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*")
@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "gemma2", "phi"])
def test_they_are_the_finite_differences(family: str, opened: Any, tokenizer: Any) -> None:
    live, prepared = opened(family), prepare(DATA, tokenizer)

    def at(*omegas: float) -> torch.Tensor:
        live.apply(recipe(*omegas))
        return torch.tensor(
            [loss.value for loss in losses(live.module, prepared)], dtype=torch.float64
        )

    here, step = (0.7, 0.4), 0.01
    plain = at(*here)
    got = found(live, prepared)
    assert [slope.loss.value for slope in got] == pytest.approx(plain.tolist(), rel=1e-6)
    for row in range(2):
        moved = [
            at(*(omega + by * (place == row) for place, omega in enumerate(here)))
            for by in (-2 * step, -step, step, 2 * step)
        ]
        wanted = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * step)
        gradient = torch.stack([slope.gradient for slope in got])[:, row]
        # Norms compute in float32, so a difference of losses is less exact than a loss.
        assert gradient.tolist() == pytest.approx(wanted.tolist(), rel=2e-4, abs=2e-6)
        assert wanted.abs().max() > 1e-3


def test_they_are_those_of_a_model_with_fused_experts(opened: Any, tokenizer: Any) -> None:
    """By autograd through the sum itself: routing jumps, so finite differences would cross it."""
    live, prepared = opened("mixtral"), prepare({"sums": DATA["sums"]}, tokenizer)
    states = []
    for omegas in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.7, 0.4)):
        live.apply(recipe(*omegas))
        states.append({key: value.clone() for key, value in live.module.named_parameters()})
    base, *experts, here = states
    (slope,) = found(live, prepared)
    omegas = torch.zeros(2, requires_grad=True)
    weights = {
        key: value + sum(omegas[row] * (experts[row][key] - base[key]) for row in range(2))
        for key, value in here.items()
    }
    total = torch.zeros(())
    for batch in prepared.datasets[0].batches:
        logits = torch.func.functional_call(live.module, weights, (batch.ids,)).logits
        picked = logits[batch.rows, batch.columns[batch.places]]
        total = total + torch.nn.functional.cross_entropy(picked, batch.targets, reduction="sum")
    (wanted,) = torch.autograd.grad(total / prepared.datasets[0].tokens, omegas)
    assert slope.gradient.tolist() == pytest.approx(wanted.tolist(), rel=1e-4)


def test_the_terms_are_those_of_the_tensors(opened: Any, tokenizer: Any) -> None:
    """A vector that changes one tensor only has that tensor's term."""
    live, prepared = opened("llama"), prepare({"sums": DATA["sums"]}, tokenizer)
    live.apply(recipe(0.7, 0.4))
    (slope,) = found(live, prepared)
    assert set(slope.tensors) == set(live.base)
    lora = slope.values[1]
    changed = {name for name, value in zip(slope.tensors, lora.tolist(), strict=True) if value}
    assert changed == set(live.vectors["lora"])
    name = "model.layers.1.mlp.down_proj.weight"
    part = Recipe.compose("base", {"full": "full", "lora": "lora"}, {"full": 0.7, "lora": 0.4})

    def at(omega: float) -> float:
        live.apply(part)
        with torch.no_grad():
            delta = live.vectors["full"][name]
            live.module.get_parameter(name).add_(delta * omega)
        (loss,) = losses(live.module, prepared)
        with torch.no_grad():
            live.module.get_parameter(name).sub_(delta * omega)
        return loss.value

    wanted = (at(0.1) - at(-0.1)) / 0.2
    assert slope.values[0, slope.tensors.index(name)].item() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("threads", [2, 3])
def test_batches_side_by_side_give_the_same_bits(
    opened: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    live, prepared = opened("llama"), prepare(DATA, tokenizer, batch_tokens=32)
    live.apply(recipe(0.7, 0.4))
    alone = found(live, prepared)
    monkeypatch.setattr(measured, "workers", lambda: threads)
    for one, other in zip(alone, found(live, prepared), strict=True):
        assert one.loss == other.loss and one.values.equal(other.values)


def test_the_module_is_left_as_it_was(opened: Any, tokenizer: Any) -> None:
    live, prepared = opened("llama"), prepare(DATA, tokenizer)
    live.apply(recipe(0.7, 0.4))
    before = {name: value.clone() for name, value in live.module.state_dict().items()}
    required = [parameter.requires_grad for parameter in live.module.parameters()]
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    vectors = list(live.vectors.values())
    with pytest.raises(Stopped):
        swept(SlopePaths(live.module, live.views, vectors), prepared, stop)
    with torch.inference_mode():  # as where a page measures
        assert len(found(live, prepared)) == 2
    assert [parameter.requires_grad for parameter in live.module.parameters()] == required
    assert all(parameter.grad is None for parameter in live.module.parameters())
    after = live.module.state_dict()
    assert all(after[name].equal(value) for name, value in before.items())
