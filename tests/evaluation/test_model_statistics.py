"""Statistics against plain loops: one example at a time, autograd as it is, nothing batched, nothing shared."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from corpus.jsonl import Example
from corpus.tokens import encode
from evaluation.errors import DataError, LoadError, Stopped
from evaluation.fisher import _squares
from evaluation.gram import _all_inputs
from evaluation.loss import losses
from evaluation.model import Loaded, load
from evaluation.model_statistics import collect
from evaluation.prepared import prepare
from evaluation.unpadded import equal_length_batches
from merging.errors import ExportError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.statistics import Statistics
from merging.live.live_model import View

Save = Callable[..., Path]
STRIDES = {"mixtral": {"intermediate_size": 52}, "qwen3_moe": {"moe_intermediate_size": 36}}
"""torch's kernel for fused experts wants rows that are multiples of 16 bytes, as those of real models are."""
WORDS = {
    "sums": [
        Example("what is the sum of 12 and 7", " the sum is 19"),
        Example("the sum of 1 and 2", " 3"),
        Example("the sum of 4 and 5", " 9"),
        Example("2 and 2", " is 4, the answer is 4"),
    ],
    "sky": [
        Example("what is the colour of the sky", " blue"),
        Example("is the sky blue", " yes, the sky is"),
    ],
}


@pytest.fixture
def saved(build: Callable[..., Any], tmp_path: Path) -> Save:
    """A tiny model of a family in a fresh folder."""

    def save(family: str) -> Path:
        build(family, **STRIDES.get(family, {})).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


def loaded(folder: Path, **options: Any) -> Loaded:
    return load(folder, checkpoint=Checkpoint(folder), **options)


def encoded(tokenizer: Any) -> list[Any]:
    return [encode(example, tokenizer) for examples in WORDS.values() for example in examples]


def file_names(module: nn.Module, values: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Values of parameters under the names of files: saved by transformers as if they were the weights."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(values[name])
    other.save_pretrained(folder)  # type: ignore[operator]
    return load_file(folder / "model.safetensors")


def exact_copy(module: Any) -> nn.Module:
    """In float64, where experts are called one by one: the fused kernel knows no float64."""
    made = copy.deepcopy(module).double()
    if hasattr(made, "set_experts_implementation"):
        made.set_experts_implementation("eager")
    return made


def fisher_by_a_plain_loop(module: nn.Module, items: list[Any]) -> dict[str, Tensor]:
    """Parameter -> the mean over examples of the squared gradient of the log-likelihood, in float64."""
    module = exact_copy(module).requires_grad_(True)
    sums = {name: torch.zeros_like(parameter) for name, parameter in module.named_parameters()}
    for item in items:
        module.zero_grad()
        logs = module(input_ids=torch.tensor([item.ids.tolist()])).logits[0].log_softmax(-1)
        sum(
            logs[at - 1, item.ids[at]] for at in range(1, len(item.ids)) if item.supervised[at]
        ).backward()
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                sums[name] += parameter.grad**2 / len(items)
    return sums


def gram_by_a_plain_loop(module: nn.Module, items: list[Any]) -> dict[str, Tensor]:
    """Module -> the mean of xᵀx over all positions that are read, in float64."""
    module = exact_copy(module)
    seen: dict[str, list[Tensor]] = {}
    for name, layer in module.named_modules():
        if type(layer).__name__ in ("Linear", "Conv1D"):
            layer.register_forward_hook(
                lambda _, given, out, name=name: seen.setdefault(name, []).append(given[0][0])
            )
    for item in items:
        last = max(at for at in range(len(item.ids)) if item.supervised[at])
        with torch.no_grad():
            module(input_ids=torch.tensor([item.ids[:last].tolist()]))
    return {
        name: torch.cat(rows).T @ torch.cat(rows) / len(torch.cat(rows))
        for name, rows in seen.items()
    }


@pytest.mark.parametrize("batch_tokens", [16, 512])
@pytest.mark.parametrize(
    "family", ["llama", "llama-tied", "gpt2", "gpt_neox", "mixtral", "qwen3_moe", "gemma2"]
)
def test_fisher_is_the_mean_of_squared_gradients_of_single_examples(
    family: str, batch_tokens: int, saved: Save, tokenizer: Any, tmp_path: Path
) -> None:
    folder = saved(family)
    model = loaded(folder)
    prepared = prepare(WORDS, tokenizer, batch_tokens=batch_tokens)
    digest = Checkpoint(folder).digest
    made = collect(model, prepared, "fisher", tmp_path / "x", model=digest)
    wanted = file_names(
        model.module, fisher_by_a_plain_loop(model.module, encoded(tokenizer)), tmp_path / "squares"
    )
    found = load_file(tmp_path / "x")
    assert set(found) == set(Checkpoint(folder)) == set(made.names) and made.averaged == ()
    largest = max(float(value.max()) for value in wanted.values())
    for name, value in wanted.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=1e-6 * largest, msg=name)
    facts = Statistics(tmp_path / "x").facts
    assert facts == made.facts and facts.kind == "fisher" and facts.model == digest
    assert (facts.datasets, facts.examples, facts.tokens) == (["sums", "sky"], 6, prepared.tokens)
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in found.values()))
    assert facts.norm == pytest.approx(norm, rel=1e-6)
    assert set(facts.versions) == {"dem", "torch", "transformers"} and not facts.sampled


@pytest.mark.parametrize("batch_tokens", [16, 512])
@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "gpt_neox", "mixtral"])
def test_gram_is_the_mean_of_the_outer_products_of_inputs(
    family: str, batch_tokens: int, saved: Save, tokenizer: Any, tmp_path: Path
) -> None:
    model = loaded(saved(family))
    items = encoded(tokenizer)
    made = collect(
        model,
        prepare(WORDS, tokenizer, batch_tokens=batch_tokens),
        "gram",
        tmp_path / "x",
        model="abc",
    )
    wanted = gram_by_a_plain_loop(model.module, items)
    found = load_file(tmp_path / "x")
    names = {name: view.parameter.removesuffix(".weight") for name, view in model.views.items()}
    tied = {"lm_head"} if family in ("llama-tied", "gpt2") else set()
    assert {names[name] for name in found} == set(wanted) - tied
    for name, value in found.items():
        torch.testing.assert_close(
            value.double(), wanted[names[name]], rtol=1e-4, atol=1e-5, msg=name
        )
    assert made.facts.tokens == sum(
        max(at for at, on in enumerate(item.supervised) if on) for item in items
    )
    turned = {name for name in found if ".c_" in name}
    assert set(made.facts.inputs_first) == (turned if family == "gpt2" else set())
    experts = {name for name in names if ".experts." in name or name.endswith("gate.weight")}
    assert set(made.averaged) == (experts if family == "mixtral" else set())


def test_gram_of_the_head_is_that_of_the_last_hidden_states(
    saved: Save, tokenizer: Any, tmp_path: Path
) -> None:
    """Without a hook of ours or of the oracle: what transformers says that the head is given."""
    model = loaded(saved("llama"))
    one = {"sky": WORDS["sky"][:1]}
    collect(model, prepare(one, tokenizer), "gram", tmp_path / "x", model="abc")
    ids = torch.tensor([encoded(tokenizer)[4].ids[:-1].tolist()])
    with torch.no_grad():
        x = model.module(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].double()
    found = load_file(tmp_path / "x")["lm_head.weight"]
    torch.testing.assert_close(found.double(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["fisher", "gram"])
def test_datasets_add_up_whatever_is_batched_together(
    kind: Any, saved: Save, tokenizer: Any, tmp_path: Path
) -> None:
    """Mean over all = the means over each, by their counts: no padding is counted, no example twice."""
    model = loaded(saved("llama"))
    whole = collect(model, prepare(WORDS, tokenizer), kind, tmp_path / "all", model="abc").facts
    weights, tensors = [], []
    for name in WORDS:
        part = {name: WORDS[name]}
        facts = collect(
            model, prepare(part, tokenizer, batch_tokens=1), kind, tmp_path / name, model="abc"
        ).facts
        weights.append(facts.examples if kind == "fisher" else facts.tokens)
        tensors.append(load_file(tmp_path / name))
    assert sum(weights) == (whole.examples if kind == "fisher" else whole.tokens)
    for name, value in load_file(tmp_path / "all").items():
        wanted = sum(
            weight * one[name] for weight, one in zip(weights, tensors, strict=True)
        ) / sum(weights)
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6)


def test_parts_have_no_padding_and_every_example_once(tokenizer: Any) -> None:
    items = encoded(tokenizer)
    prepared = prepare(WORDS, tokenizer)
    assert any(
        len(set(map(len, batch.ids.tolist()))) == 1 < len(batch.ids)
        for batch in prepared.datasets[0].batches
    )
    for alone in (True, False):
        found = {}
        for part in equal_length_batches(prepared, alone=alone):
            assert not alone or len(part.examples) == 1
            for row, number in enumerate(part.examples):
                mine = part.rows == row
                found[part.dataset, number] = (
                    part.ids[row].tolist(), part.positions[mine].tolist(), part.targets[mine].tolist(),
                )  # fmt: skip
        keys = [("sums", number) for number in range(4)] + [("sky", number) for number in range(2)]
        assert sorted(found) == sorted(keys)
        for key, item in zip(keys, items, strict=True):
            at = [place for place, on in enumerate(item.supervised) if on]
            assert found[key] == (
                item.ids[: at[-1]].tolist(),
                [place - 1 for place in at],
                [item.ids[place] for place in at],
            )
    together = [
        part for part in equal_length_batches(prepared, alone=False) if len(part.examples) > 1
    ]
    assert together and all(len(part.ids) == len(part.examples) for part in together)


def test_sampled_tokens_depend_on_seed_dataset_and_number_only(
    saved: Save, tokenizer: Any, tmp_path: Path
) -> None:
    model = loaded(saved("llama"))

    def drawn(name: str, batch_tokens: int = 512, **options: Any) -> Tensor:
        prepared = prepare(WORDS, tokenizer, batch_tokens=batch_tokens)
        made = collect(model, prepared, "fisher", tmp_path / name, model="abc", **options)
        assert made.facts.sampled is options.get(
            "sampled", False
        ) and made.facts.seed == options.get("seed", 0)
        return load_file(tmp_path / name)["lm_head.weight"]

    first = drawn("one", sampled=True, seed=3)
    torch.testing.assert_close(drawn("two", 1, sampled=True, seed=3), first, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(drawn("three", sampled=True, seed=4), first, rtol=0.01)
    assert not torch.allclose(drawn("four"), first, rtol=0.01)


def test_the_mean_over_draws_is_the_expected_information(
    saved: Save, tokenizer: Any, tmp_path: Path
) -> None:
    """Σ_t Σ_y p(y_t) (∂ log p(y_t))², for the draws are independent and ∂ log p has the mean 0; 60 draws, 5 standard errors."""
    model = loaded(saved("llama"))
    example = Example("2 and", " 2")
    item = encode(example, tokenizer)
    prepared = prepare({"one": [example]}, tokenizer)
    weight = model.module.get_parameter("model.norm.weight").requires_grad_(True)
    logs = model.module(input_ids=torch.tensor([item.ids.tolist()])).logits[0].log_softmax(-1)
    wanted = torch.zeros(())
    for at in (place - 1 for place, on in enumerate(item.supervised) if on):
        for log in logs[at]:
            (gradient,) = torch.autograd.grad(log, weight, retain_graph=True)
            wanted += log.detach().exp() * gradient.square().sum()
    weight.requires_grad_(False)
    sums = []
    for seed in range(60):
        out = tmp_path / str(seed)
        collect(model, prepared, "fisher", out, model="abc", sampled=True, seed=seed)
        sums.append(load_file(out)["model.norm.weight"].sum())
    draws = torch.stack(sums)
    assert abs(float(draws.mean() - wanted)) < 5 * float(draws.std()) / math.sqrt(60)
    assert draws.std() > 0


@pytest.mark.parametrize("kind", ["fisher", "gram"])
def test_the_module_is_as_before_also_when_it_was_stopped(
    kind: Any, saved: Save, tokenizer: Any, tmp_path: Path
) -> None:
    model = loaded(saved("llama"))
    prepared = prepare(WORDS, tokenizer)
    before = [
        (parameter.requires_grad, parameter.clone()) for parameter in model.module.parameters()
    ]
    first = list(losses(model.module, prepared))
    seen: list[tuple[int, int]] = []

    def untouched() -> None:
        for parameter, (required, values) in zip(model.module.parameters(), before, strict=True):
            assert (
                parameter.requires_grad is required
                and parameter.grad is None
                and torch.equal(parameter, values)
            )
            assert not parameter._post_accumulate_grad_hooks
        assert not any(layer._forward_pre_hooks for layer in model.module.modules())
        assert list(losses(model.module, prepared)) == first

    with pytest.raises(Stopped, match=r"stopped after [1-6] of 6 examples; nothing was written"):
        collect(
            model, prepared, kind, tmp_path / "x", model="abc", should_stop=lambda: bool(seen),
            progress=lambda done, total: seen.append((done, total)),
        )  # fmt: skip
    untouched()
    assert len(seen) == 1 and not (tmp_path / "x").exists()
    seen.clear()
    collect(
        model, prepared, kind, tmp_path / "x", model="abc", progress=lambda *at: seen.append(at)
    )
    untouched()
    assert seen[-1] == (6, 6) and seen == sorted(seen)


def test_gradients_are_squared_in_float32() -> None:
    """A gradient of 1e-5 squares to 1e-10, which float16 does not hold."""
    weight = nn.Parameter(torch.ones(3, dtype=torch.float16), requires_grad=False)
    with _squares({id(weight): weight}) as sums:
        (weight * 1e-5).sum().backward()
    torch.testing.assert_close(sums[id(weight)], torch.full((3,), 1e-10), rtol=0.01, atol=0)
    assert weight.grad is None and not weight.requires_grad


def test_a_model_in_half_precision_is_near_the_exact_one(
    saved: Save, tokenizer: Any, tmp_path: Path
) -> None:
    model = loaded(saved("llama"), dtype=torch.bfloat16)
    collect(model, prepare(WORDS, tokenizer), "fisher", tmp_path / "x", model="abc")
    exact = fisher_by_a_plain_loop(model.module, encoded(tokenizer))
    found = load_file(tmp_path / "x")
    for name in ("lm_head.weight", "model.norm.weight"):
        assert float(found[name].sum()) == pytest.approx(float(exact[name].sum()), rel=0.1)


def test_wrong_input_is_refused_before_anything_is_computed(
    saved: Save, tokenizer: Any, tmp_path: Path
) -> None:
    model = loaded(saved("llama"))
    prepared = prepare(WORDS, tokenizer)
    with pytest.raises(DataError, match="sampled only applies to kind fisher"):
        collect(model, prepared, "gram", tmp_path / "x", model="abc", sampled=True)
    with pytest.raises(DataError, match="token 999 occurs in the data, the model knows 331 tokens"):
        collect(model, replace(prepared, largest=999), "gram", tmp_path / "x", model="abc")
    (tmp_path / "there").touch()
    with pytest.raises(ExportError, match="there exists"):
        collect(
            model,
            prepared,
            "gram",
            tmp_path / "there",
            model="abc",
            should_stop=lambda: pytest.fail("computed"),
        )
    with pytest.raises(LoadError, match="no tensor of the files is a parameter of the module"):
        collect(replace(model, views={}), prepared, "fisher", tmp_path / "x", model="abc")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["fisher", "gram"])
def test_statistics_that_are_not_finite_are_refused(
    kind: Any, saved: Save, tokenizer: Any, tmp_path: Path
) -> None:
    model = loaded(saved("llama"))
    with torch.no_grad():
        model.module.get_parameter("model.norm.weight").fill_(math.inf)
    with pytest.raises(
        DataError, match=r"the statistics of '.*' are not finite. Look at the model's loss"
    ):
        collect(model, prepare(WORDS, tokenizer), kind, tmp_path / "x", model="abc")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("index", "axis", "whole"),
    [((), 1, True), (((2, 5),), 1, True), (((2, 5),), 0, False), (((2, 5), (0, 7)), 1, True),
     (((0, 7),), 0, True), (((2, 5), (1, 7)), 1, False), ((3,), 1, False)],
)  # fmt: skip
def test_a_tensor_with_some_of_the_inputs_has_no_gram_matrix(
    index: Any, axis: int, whole: bool
) -> None:
    assert _all_inputs(View("w", index), 7, axis) is whole


def test_q_k_and_v_of_one_weight_share_its_gram_matrix(tokenizer: Any, tmp_path: Path) -> None:
    """Tensors that are rows of one layer, one of them stored the other way round, and a square one."""

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"vocab_size": 331})
            self.embed = nn.Embedding(331, 5)
            self.qkv = nn.Linear(5, 12)
            self.head = nn.Linear(12, 331)

        def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
            return type("Out", (), {"logits": self.head(self.qkv(input=self.embed(input_ids)))})

    torch.manual_seed(0)
    views = {
        "q": View("qkv.weight", ((0, 5),)),
        "k": View("qkv.weight", ((5, 10),), True),
        "part": View("qkv.weight", ((10, 12), (0, 3))),
        "embed": View("embed.weight"),
        "gone": View("nothing"),
    }
    model = Loaded(Fused(), tokenizer, views, False)
    made = collect(model, prepare(WORDS, tokenizer), "gram", tmp_path / "x", model="abc")
    found = load_file(tmp_path / "x")
    assert set(found) == {"q", "k"} and torch.equal(found["q"], found["k"])
    assert made.facts.inputs_first == ["k"] and made.averaged == ("part",)
    ids = [token for item in encoded(tokenizer) for token in item.ids[: len(item.ids) - 1]]
    x = model.module.get_parameter("embed.weight").detach()[ids].double()
    torch.testing.assert_close(found["q"].double(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)
    # the gradient of each region, in the orientation of its file
    collect(model, prepare(WORDS, tokenizer), "fisher", tmp_path / "y", model="abc")
    squares = fisher_by_a_plain_loop(model.module, encoded(tokenizer))
    found = load_file(tmp_path / "y")
    assert set(found) == {"q", "k", "part", "embed"}
    whole = squares["qkv.weight"].float()
    for name, value in {
        "q": whole[:5],
        "k": whole[5:10].T,
        "part": whole[10:, :3],
        "embed": squares["embed.weight"].float(),
    }.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)
