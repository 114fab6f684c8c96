"""Derivatives through the factors of adapters: those of the gradients of the weights."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from corpus.jsonl import Example
from evaluation import loss as measured
from evaluation.errors import Stopped
from evaluation.landscape import omega_gradient
from evaluation.landscape.adapter_taps import Taps, owners, tap
from evaluation.landscape.omega_gradient import SlopeSweep
from evaluation.landscape.slope_paths import SlopePaths
from evaluation.loss import losses
from evaluation.model import load
from evaluation.prepared import prepare
from merging import Checkpoint, LiveModel, LoraVector, Recipe, View, in_memory
from merging.inputs.vector import DistributionVector, Vector

DATA = {
    "sums": [Example(f"the sum of {i} and 7 is", f" {i + 7}") for i in range(9)],
    "skies": [Example("what is the colour of the sky", f" blue {i}") for i in range(4)],
}
FAMILIES = ["llama", "llama-tied", "gpt2", "gpt_neox", "qwen2", "qwen3", "gemma2", "gemma3_text"]
FAMILIES += ["phi", "mixtral", "qwen3_moe"]
OTHERS = {
    "gemma2": ["embed_tokens"],
    "gemma3_text": ["embed_tokens"],
    "mixtral": ["experts", "gate"],
    "qwen3_moe": ["experts", "gate"],
}
"""Weights of layers of no known kind: embeddings that are scaled, fused experts and their router."""
OMEGAS = {"narrow": 0.7, "wide": -0.4, "first": 1.2}
STEP = 0.005


def write_adapter(
    folder: Path, base: Any, names: list[str], rank: int, seed: int, **config: Any
) -> Path:
    """An adapter on these tensors of the files, in PEFT's format, with a B that is not 0."""
    folder.mkdir()
    torch.manual_seed(seed)
    factors: dict[str, Tensor] = {}
    for name in names:
        rows, columns = base[name].shape
        path = "base_model.model." + name.removesuffix(".weight")
        a, b = torch.randn(rank, columns) / 5, torch.randn(rows, rank) / 5
        if "embed" in name or "wte" in name:
            factors[f"{path}.lora_embedding_A"] = torch.randn(rank, rows) / 5
            factors[f"{path}.lora_embedding_B"] = torch.randn(columns, rank) / 5
        elif config.get("fan_in_fan_out"):
            factors[f"{path}.lora_A.weight"] = torch.randn(rank, rows) / 5
            factors[f"{path}.lora_B.weight"] = torch.randn(columns, rank) / 5
        else:
            factors[f"{path}.lora_A.weight"], factors[f"{path}.lora_B.weight"] = a, b
    save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    document = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def opened(build: Callable[..., Any], tmp_path: Path) -> Callable[..., LiveModel]:
    """opened(family): a live model of three adapters: of rank 3, of rank 5 with rsLoRA, and one on
    the first layer, the embeddings and the head.
    """

    def make(family: str, dtype: torch.dtype = torch.float64) -> LiveModel:
        experts = family in ("mixtral", "qwen3_moe")
        dtype = torch.float32 if experts else dtype  # torch's grouped products know no float64
        changes = {"intermediate_size": 56} if family == "mixtral" else {}
        changes |= {"moe_intermediate_size": 40} if family == "qwen3_moe" else {}
        base = tmp_path / "base"
        build(family, **changes).to(dtype).save_pretrained(base)
        checkpoint = Checkpoint(base)
        loaded = load(base, checkpoint=checkpoint)
        weights = in_memory(checkpoint)
        matrices = [
            name
            for name in checkpoint
            if len(checkpoint.info(name).shape) == 2 and "wpe" not in name
        ]
        inner = [name for name in matrices if ".0." in name or ".1." in name]
        outer = [name for name in matrices if name not in inner]
        turned = {"fan_in_fan_out": True} if family == "gpt2" else {}
        kinds = {
            "narrow": (inner, 3, {}),
            "wide": (inner[1:], 5, {"use_rslora": True}),
            "first": ([name for name in inner if ".0." in name] + outer, 2, {}),
        }
        vectors = {}
        for seed, (name, (tensors, rank, more)) in enumerate(kinds.items()):
            folder = write_adapter(tmp_path / name, weights, tensors, rank, seed, **turned, **more)
            vectors[name] = LoraVector(folder, checkpoint, name)
        return LiveModel(loaded.module, weights, vectors, loaded.views)

    return make


def recipe(omegas: dict[str, float]) -> Recipe:
    return Recipe.compose("base", {name: name for name in omegas}, omegas)


def paths_of(live: LiveModel, *more: Vector, taps: bool = True) -> SlopePaths:
    paths = SlopePaths(live.module, live.views, [*live.vectors.values(), *more])
    if not taps:
        names = {view.parameter for view in paths.tensors.values()}
        paths.weighted, paths.owners = {name: paths.parameter(name) for name in names}, {}
    return paths


def swept(paths: SlopePaths, prepared: Any, stop: Callable[[], bool] | None = None) -> list[Any]:
    found = []
    for dataset in prepared.datasets:
        sweep = SlopeSweep(paths, dataset)
        while not sweep.done:
            sweep.step(stop)
        found.append(sweep.slope())
    return found


def close(found: Any, wanted: Any, tolerance: float) -> None:
    """Each term of each tensor, against the largest one of its vector."""
    assert found.tensors == wanted.tensors
    size = wanted.values.abs().amax(1, keepdim=True)
    assert (size > 1e-4).all()
    assert ((found.values - wanted.values).abs() / size).max() < tolerance


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_those_of_the_gradients_of_the_weights(
    family: str, opened: Callable[..., LiveModel], tokenizer: Any
) -> None:
    live, prepared = opened(family), prepare(DATA, tokenizer)
    live.apply(recipe(OMEGAS))
    paths = paths_of(live)
    others = OTHERS.get(family, ())
    assert {name for name in paths.weighted if not any(part in name for part in others)} == set()
    assert bool(paths.weighted) == bool(others) and len(paths.owners) > 7
    exact = next(live.module.parameters()).dtype == torch.float64
    for got, wanted in zip(
        swept(paths, prepared), swept(paths_of(live, taps=False), prepared), strict=True
    ):
        close(got, wanted, 1e-5 if exact else 1e-4)
        assert got.loss.value == pytest.approx(wanted.loss.value, rel=1e-9 if exact else 1e-6)


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "phi"])
def test_they_are_the_finite_differences(
    family: str, opened: Callable[..., LiveModel], tokenizer: Any
) -> None:
    live, prepared = opened(family), prepare(DATA, tokenizer)

    def at(name: str, by: float) -> Tensor:
        live.apply(recipe(OMEGAS | {name: OMEGAS[name] + by}))
        values = [loss.value for loss in losses(live.module, prepared)]
        return torch.tensor(values, dtype=torch.float64)

    live.apply(recipe(OMEGAS))
    gradient = torch.stack([slope.gradient for slope in swept(paths_of(live), prepared)])
    for row, name in enumerate(OMEGAS):
        moved = [at(name, by) for by in (-2 * STEP, -STEP, STEP, 2 * STEP)]
        wanted = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * STEP)
        assert gradient[:, row].tolist() == pytest.approx(wanted.tolist(), rel=2e-4, abs=1e-5)


class Part(Vector):
    """A dense vector, but of some tensors only."""

    def __init__(self, whole: Vector, names: list[str]) -> None:
        self.name, self.base, self.path = "part", whole.base, None
        self._whole, self._names = whole, names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Tensor:
        return self._whole[name]

    def block(self, name: str, start: int, stop: int) -> Tensor:
        return self._whole.block(name, start, stop)

    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        return self._whole.weights_block(name, start, stop)

    digest = sampled_digest = "part"


def test_a_dense_vector_needs_gradients_of_what_it_changes_only(
    opened: Callable[..., LiveModel], tokenizer: Any
) -> None:
    live, prepared = opened("llama"), prepare(DATA, tokenizer)
    live.apply(recipe(OMEGAS))
    tuned = {name: value + 0.03 * torch.randn_like(value) for name, value in live.base.items()}
    names = ["model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"]
    names += ["model.norm.weight"]
    part = Part(DistributionVector("dense", live.base, tuned), names)
    paths = paths_of(live, part)
    assert sorted(paths.weighted) == sorted(names)
    assert paths.needs_weight_gradients and paths.owners
    every = swept(paths_of(live, part, taps=False), prepared)
    for got, wanted in zip(swept(paths, prepared), every, strict=True):
        close(got, wanted, 1e-5)


@pytest.mark.parametrize("threads", [2, 3])
def test_batches_side_by_side_give_the_same_bits(
    opened: Callable[..., LiveModel],
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
) -> None:
    live, prepared = opened("llama-tied"), prepare(DATA, tokenizer, batch_tokens=32)
    live.apply(recipe(OMEGAS))
    alone = swept(paths_of(live), prepared)
    monkeypatch.setattr(measured, "workers", lambda: threads)
    for one, other in zip(alone, swept(paths_of(live), prepared), strict=True):
        assert one.loss == other.loss and one.values.equal(other.values)


def test_a_stopped_step_is_taken_again_and_leaves_no_hook(
    opened: Callable[..., LiveModel], tokenizer: Any
) -> None:
    live, prepared = opened("llama"), prepare({"sums": DATA["sums"]}, tokenizer)
    live.apply(recipe(OMEGAS))
    (wanted,) = swept(paths_of(live), prepared)
    sweep = SlopeSweep(paths_of(live), prepared.datasets[0])
    # It is asked at each layer of the forward and of the backward pass.
    for number in (1, 9, 17, 25, 33, 60):
        asked = iter(range(1, number))
        with pytest.raises(Stopped):
            sweep.step(lambda asked=asked: next(asked, None) is None)  # type: ignore[misc]
        assert not any(part._forward_hooks for part in live.module.modules())
        assert sweep.positions == 0
    while not sweep.done:
        sweep.step()
    assert sweep.slope().values.equal(wanted.values)
    assert all(not each.requires_grad for each in live.module.parameters())


def test_a_weight_that_is_used_without_its_layer_has_a_gradient(
    opened: Callable[..., LiveModel], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, prepared = opened("llama"), prepare(DATA, tokenizer)
    live.apply(recipe(OMEGAS))
    mlp = live.module.get_submodule("model.layers.1.mlp")

    def forward(x: Tensor) -> Tensor:
        inner = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
        return nn.functional.linear(inner, mlp.down_proj.weight)

    monkeypatch.setattr(mlp, "forward", forward)
    paths = paths_of(live)
    assert not paths.weighted
    every = swept(paths_of(live, taps=False), prepared)
    for got, wanted in zip(swept(paths, prepared), every, strict=True):
        close(got, wanted, 1e-5)


def test_large_batches_are_split_on_a_large_model(
    opened: Callable[..., LiveModel], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, prepared = opened("llama"), prepare(DATA, tokenizer)
    live.apply(recipe(OMEGAS))
    whole = swept(paths_of(live), prepared)
    monkeypatch.setattr(omega_gradient, "LARGE", 1)
    monkeypatch.setattr(omega_gradient, "POSITIONS", 40)
    paths = paths_of(live)
    sweep, steps = SlopeSweep(paths, prepared.datasets[0]), 0
    while not sweep.done:
        sweep.step()
        steps += 1
    assert steps > len(prepared.datasets[0].batches)
    for got, wanted in zip(swept(paths, prepared), whole, strict=True):
        close(got, wanted, 1e-9)
        assert got.loss.value == pytest.approx(wanted.loss.value)


class Fused(nn.Module):
    """Two tensors of the files in one layer, a third one turned."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(7, 16)
        self.turned = nn.Linear(16, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.turned(torch.tanh(self.both(x)))
        return output


def test_a_tensor_that_fills_a_part_of_a_parameter_has_its_own_term(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = Fused().requires_grad_(False)
    weights = {
        "q.weight": module.both.weight[:5].clone(),
        "k.weight": module.both.weight[5:].clone(),
        "t.weight": module.turned.weight.T.contiguous(),
    }
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    base = Checkpoint(tmp_path)
    folder = write_adapter(tmp_path / "a", weights, list(weights), 2, 0)
    other = write_adapter(tmp_path / "b", weights, ["k.weight"], 3, 1)
    vectors = [LoraVector(folder, base), LoraVector(other, base)]
    views = {
        "q.weight": View("both.weight", ((0, 5),)),
        "k.weight": View("both.weight", ((5, 16),)),
        "t.weight": View("turned.weight", (), transposed=True),
    }
    found = owners(module, views, vectors)
    assert found.keys() == {"both.weight", "turned.weight"}
    taps = Taps({key: tap(module, key, found[key], views, vectors) for key in found})
    x = torch.randn(2, 13, 7)
    with taps.mounted(), taps.recorded(list(found), lambda: None) as (zeros, called):
        gradients = torch.autograd.grad(module(x).square().sum(), list(zeros.values()))
    assert called == {"both", "turned"}
    values = {}
    for key, gradient in zip(zeros, gradients, strict=True):
        start = 0
        for term in taps.terms(key):
            part = gradient[start : start + term.rank].sum() * term.scale
            values[term.tensor, term.vector], start = float(part), start + term.rank
    module.requires_grad_(True)
    module(x).square().sum().backward()
    both, turned = module.both.weight.grad, module.turned.weight.grad
    assert both is not None and turned is not None
    wanted = {
        ("q.weight", 0): both[:5] * vectors[0]["q.weight"],
        ("k.weight", 0): both[5:] * vectors[0]["k.weight"],
        ("k.weight", 1): both[5:] * vectors[1]["k.weight"],
        ("t.weight", 0): turned.T * vectors[0]["t.weight"],
    }
    assert values == pytest.approx({key: float(each.sum()) for key, each in wanted.items()})
