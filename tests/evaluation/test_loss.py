"""Validation loss: equal to a plain float64 loop, whatever the batching, with the worked example of its docstring."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus import CorpusError
from corpus.jsonl import Example
from evaluation import loss as measured
from evaluation.errors import DataError, Stopped
from evaluation.loss import SMALL, Loss, Sweep, losses, part_of, ratio, side_by_side
from evaluation.prepared import begin_with, parts, prepare

Build = Callable[..., Any]

WORDS = [
    "the",
    "sum",
    "of",
    "12",
    "and",
    "7",
    "is",
    "19",
    "what",
    "colour",
    "has",
    "a",
    "sky",
    "in",
    "31",
    "towns",
    "yes",
    "or",
    "no",
]


def examples(count: int, seed: int) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)

    def text(most: int) -> str:
        picked = torch.randint(
            len(WORDS), (int(torch.randint(1, most, (), generator=generator)),), generator=generator
        )
        return " ".join(WORDS[i] for i in picked)

    return [Example(text(11), " " + text(7)) for _ in range(count)]


DATA = {"sums": examples(13, 1), "skies": examples(7, 2), "single": examples(1, 3)}


def plain(module: Any, tokenizer: Any, data: list[Example]) -> tuple[float, float, int]:
    """One example at a time, full logits, float64: the definition."""
    sums, counts = [], []
    for example in data:
        prompt = tokenizer(example.prompt)["input_ids"]
        answer = [*tokenizer(example.completion)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = module(torch.tensor([prompt + answer])).logits[0].double()
        log = torch.log_softmax(logits, dim=-1)
        sums.append(-sum(float(log[len(prompt) + i - 1, token]) for i, token in enumerate(answer)))
        counts.append(len(answer))
    value, n = sum(sums) / sum(counts), len(sums)
    residuals = [loss - value * count for loss, count in zip(sums, counts, strict=True)]
    variance = n / (n - 1) * sum(r * r for r in residuals) / sum(counts) ** 2 if n > 1 else math.nan
    return value, math.sqrt(variance), sum(counts)


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "gemma2", "mixtral", "phi"])
@pytest.mark.parametrize("batch_tokens", [1, 97, 2048])
def test_equals_a_plain_loop_whatever_the_batches(
    family: str, batch_tokens: int, build: Build, tokenizer: Any
) -> None:
    exact = (
        family != "mixtral"
    )  # torch multiplies groups of experts in float32, in rows of whole 16 bytes
    module = build(family).double() if exact else build(family, intermediate_size=52)
    found = list(losses(module, prepare(DATA, tokenizer, batch_tokens=batch_tokens)))
    assert [(loss.dataset, loss.n) for loss in found] == [("sums", 13), ("skies", 7), ("single", 1)]
    for loss in found:
        value, stderr, tokens = plain(module, tokenizer, DATA[loss.dataset])
        assert loss.tokens == tokens
        assert loss.value == pytest.approx(
            value, rel=3e-7 if exact else 1e-6
        )  # cross_entropy itself is float32
        assert loss.stderr == pytest.approx(stderr, rel=1e-4, nan_ok=True)


TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def test_chats_are_measured_on_the_tokens_that_training_learns(
    build: Build, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the labels of a batch of the trainer, in a plain loop in float64."""
    from corpus import Chat, Message, encode
    from training.batching.order import collate

    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    turns = [
        (Message("user", example.prompt), Message("assistant", example.completion, learn=learn))
        for example, learn in zip(DATA["sums"], [True, False, True] * 5, strict=False)
    ]
    chats = [
        Chat((*one, *other))
        for one, other in zip(turns[::2], turns[1::2], strict=False)
        if one[1].learn or other[1].learn
    ]
    module = build("llama").requires_grad_(False)
    (found,) = losses(module, prepare({"chats": [*chats, DATA["skies"][0]]}, tokenizer))
    total, count = 0.0, 0
    for record in (*chats, DATA["skies"][0]):
        batch = collate([encode(record, tokenizer)], 0)
        logits = module.double()(batch["input_ids"]).logits[0, :-1]
        labels = batch["labels"][0, 1:]
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
    assert found.n == len(chats) + 1 and found.tokens == count
    assert found.value == pytest.approx(total / count, rel=1e-5)
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(
        CorpusError, match="(?s)dataset 'chats', .*record 1; record 2.* needs a chat template"
    ):
        prepare({"chats": chats}, tokenizer)


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "phi", "mixtral"])
def test_the_faster_products_differ_in_rounding_only(
    family: str, build: Build, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, prepared = (
        build(family, **({"intermediate_size": 52} if family == "mixtral" else {})),
        prepare(DATA, tokenizer),
    )
    fast = list(losses(module, prepared))
    monkeypatch.setattr("evaluation.cpu_products._FUSED", None)
    for one, other in zip(fast, losses(module, prepared), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-6)


class Wrapped(torch.nn.Module):
    """A model behind a wrapper that has no logits_to_keep, or that takes and ignores it."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config


class Without(Wrapped):
    def forward(self, input_ids: torch.Tensor, use_cache: bool = True) -> Any:
        return self.inner(input_ids=input_ids, use_cache=use_cache)


class Ignoring(Wrapped):
    def forward(
        self, input_ids: torch.Tensor, use_cache: bool = True, logits_to_keep: Any = 0
    ) -> Any:
        return self.inner(input_ids=input_ids, use_cache=use_cache)


@pytest.mark.parametrize("wrapper", [Without, Ignoring])
def test_models_that_cannot_select_columns_give_the_same(
    wrapper: Any, build: Build, tokenizer: Any
) -> None:
    module, prepared = build("llama"), prepare(DATA, tokenizer)
    for one, other in zip(losses(module, prepared), losses(wrapper(module), prepared), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-6)


def test_ratio_by_hand() -> None:
    # L = 6/4, residuals 2 − 1.5 and 4 − 4.5, variance 2/1 · (0.25 + 0.25) / 16 = 1/16
    assert ratio(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 3.0])) == (1.5, 0.25)


def test_stderr_of_equal_lengths_is_that_of_a_mean() -> None:
    means = torch.tensor([0.3, 1.1, 0.7, 2.0, 0.4], dtype=torch.float64)
    value, stderr = ratio(means * 7, torch.full((5,), 7.0, dtype=torch.float64))
    assert value == pytest.approx(float(means.mean()))
    assert stderr == pytest.approx(float(means.std() / math.sqrt(5)))


def test_stderr_covers_the_truth() -> None:
    # 2,000 samples of 40 examples with correlated tokens: 95 % intervals must hold the true ratio 95 % of the time
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 20, (2000, 40), generator=generator).double()
    sums = counts * (1 + 0.5 * torch.randn(2000, 40, generator=generator, dtype=torch.float64))
    found = torch.tensor([ratio(s, c) for s, c in zip(sums, counts, strict=True)])
    covered = ((found[:, 0] - 1).abs() < 1.96 * found[:, 1]).double().mean()
    assert 0.92 < covered < 0.96


def test_limit_takes_the_first_examples(build: Build, tokenizer: Any) -> None:
    module = build("llama")
    quick = list(losses(module, prepare(DATA, tokenizer, limit=5)))
    cut = {name: data[:5] for name, data in DATA.items()}
    assert [loss.n for loss in quick] == [5, 5, 1]
    assert [loss.value for loss in quick] == [
        loss.value for loss in losses(module, prepare(cut, tokenizer))
    ]


def test_one_example_has_no_error_and_nan_stays_nan(build: Build, tokenizer: Any) -> None:
    module = build("llama")
    assert math.isnan(next(losses(module, prepare({"one": DATA["sums"][:1]}, tokenizer))).stderr)
    with torch.no_grad():
        module.model.norm.weight.fill_(math.nan)
    assert all(math.isnan(loss.value) for loss in losses(module, prepare(DATA, tokenizer)))


def test_bfloat16_is_near_float32(build: Build, tokenizer: Any) -> None:
    prepared = prepare(DATA, tokenizer)
    for exact, rounded in zip(
        losses(build("llama"), prepared), losses(build("llama").bfloat16(), prepared), strict=True
    ):
        assert rounded.value == pytest.approx(exact.value, rel=0.01)


def test_module_is_left_as_it_was(build: Build, tokenizer: Any) -> None:
    module = build("llama")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    list(losses(module, prepare(DATA, tokenizer)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_too_long_examples_are_left_out_and_counted(build: Build, tokenizer: Any) -> None:
    data = [Example("the sky", " yes"), Example("the sky " * 90, " no")]
    prepared = prepare({"skies": data}, tokenizer)
    assert prepared.dropped == {"skies": 1}
    assert next(losses(build("llama"), prepared)).n == 1
    with pytest.raises(
        DataError, match=r"dataset 'long': none of 1 examples can be scored \(1 are longer than 127"
    ):
        prepare({"long": data[1:]}, tokenizer)


def test_stop(build: Build, tokenizer: Any) -> None:
    found: list[Loss] = []
    with pytest.raises(Stopped, match="stopped at dataset 'skies'"):
        found.extend(
            losses(build("llama"), prepare(DATA, tokenizer), should_stop=lambda: bool(found))
        )
    assert [loss.dataset for loss in found] == ["sums"]
    generator = losses(build("llama"), prepare(DATA, tokenizer), should_stop=lambda: True)
    with pytest.raises(Stopped, match="stopped at dataset 'sums'"):
        next(generator)


def test_a_step_that_is_stopped_inside_the_model_changes_nothing(
    build: Build, tokenizer: Any
) -> None:
    module, prepared = build("llama"), prepare(DATA, tokenizer, batch_tokens=97)
    sweep, asked = Sweep(prepared.datasets), 0

    def stop_inside() -> bool:
        nonlocal asked
        asked += 1
        return asked % 7 == 0

    known = []
    for _ in range(4):
        with pytest.raises(Stopped):
            while not sweep.done:
                known += sweep.step(module, stop_inside)
    assert asked == 28
    while not sweep.done:
        known += sweep.step(module)
    assert known == list(losses(module, prepared))
    assert sweep.positions == prepared.positions


def test_tokens_of_another_model(build: Build, tokenizer: Any) -> None:
    prepared = prepare(DATA, tokenizer)
    known = prepared.largest
    assert next(losses(build("llama", vocab_size=known + 1), prepared)).n == 13
    with pytest.raises(
        DataError, match=rf"token {known} occurs in the data, the model knows {known} tokens"
    ):
        list(losses(build("llama", vocab_size=known), prepared))


def test_wrong_arguments(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no datasets were given"):
        prepare({}, tokenizer)
    with pytest.raises(DataError, match="limit is 0; expected at least 1"):
        prepare(DATA, tokenizer, limit=0)


def test_padding_is_little(tokenizer: Any) -> None:
    prepared = prepare({"sums": examples(200, 4)}, tokenizer)
    real = sum(len(batch.targets) for batch in prepared.datasets[0].batches)
    assert prepared.tokens == real
    needed = sum(
        len(tokenizer(example.prompt + example.completion)["input_ids"])
        for example in examples(200, 4)
    )
    assert prepared.positions < 1.15 * needed


def test_file_order_does_not_matter_to_the_value(
    build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    module = build("llama")
    there = next(losses(module, prepare({"sums": DATA["sums"]}, tokenizer)))
    back = next(losses(module, prepare({"sums": DATA["sums"][::-1]}, tokenizer)))
    assert there.value == pytest.approx(back.value, rel=1e-6)
    assert there.stderr == pytest.approx(back.stderr, rel=1e-5)


def measure(module: Any, prepared: Any) -> list[Loss]:
    """One sweep over all datasets."""
    sweep, known = Sweep(prepared.datasets), []
    while not sweep.done:
        known += sweep.step(module)
    assert sweep.positions == prepared.positions
    return known


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_batches_side_by_side_give_the_same_bits(
    build: Build, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    module, prepared = build("llama"), prepare(DATA, tokenizer, batch_tokens=32)
    assert len(prepared.datasets[0].batches) > 3
    assert side_by_side(module) == 1  # the tests have one thread
    alone = measure(module, prepared)
    monkeypatch.setattr(measured, "workers", lambda: threads)
    assert side_by_side(module) == threads
    assert measure(module, prepared) == alone == list(losses(module, prepared))


def test_a_large_model_or_an_accelerator_computes_one_batch_at_a_time(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build("llama")
    size = sum(parameter.numel() for parameter in module.parameters())
    assert size < SMALL
    monkeypatch.setattr(measured, "workers", lambda: 4)
    monkeypatch.setattr(measured, "SMALL", size)
    assert side_by_side(module) == 4
    assert side_by_side(build("llama").to("meta")) == 1
    monkeypatch.setattr(measured, "SMALL", size - 1)
    assert side_by_side(module) == 1


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_model_whose_positions_depend_on_the_batch_is_computed_one_batch_at_a_time(
    build: Build, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Such a rotary embedding writes its frequencies anew, by the length of the batch."""
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        factors = {"short_factor": [1.0] * 6, "long_factor": [float(n) for n in range(1, 7)]}
        rope |= {"original_max_position_embeddings": 6, **factors}
    monkeypatch.setattr(measured, "workers", lambda: 4)
    assert side_by_side(build("llama", rope_parameters=rope)) == 1
    assert side_by_side(build("llama")) == 4


def test_a_model_that_writes_into_itself_is_computed_one_batch_at_a_time(
    build: Build, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buffer that each forward pass writes before it reads it: seen, and measured again alone."""
    module, prepared = build("llama"), prepare(DATA, tokenizer, batch_tokens=32)
    module.register_buffer("scale", torch.ones(()))

    def scaled(part: Any, inputs: Any, output: Any) -> Any:
        module.scale.fill_(1 + 0.01 * output.shape[1])
        time.sleep(0.01)  # so that another batch comes in between
        return output * module.scale

    module.model.register_forward_hook(
        lambda part, inputs, output: type(output)(last_hidden_state=scaled(part, inputs, output[0]))
    )
    alone = measure(module, prepared)
    monkeypatch.setattr(measured, "workers", lambda: 4)
    assert measure(module, prepared) == alone


def test_parts_of_a_batch_have_its_examples_and_its_losses(
    build: Callable[..., Any], tokenizer: Any
) -> None:
    module, prepared = build("llama"), prepare(DATA, tokenizer, batch_tokens=100)
    split = replace(
        prepared,
        datasets=tuple(
            data._replace(batches=tuple(part for each in data.batches for part in parts(each, 30)))
            for data in prepared.datasets
        ),
    )
    assert max(len(batch.ids) for data in prepared.datasets for batch in data.batches) > 1
    for data, other in zip(prepared.datasets, split.datasets, strict=True):
        assert data.n == 1 or len(other.batches) > len(data.batches)
        for batch in other.batches:
            assert batch.ids.numel() <= 30 or len(batch.ids) == 1
            assert set(batch.rows.tolist()) == set(range(len(batch.ids)))
    for whole, got in zip(losses(module, prepared), losses(module, split), strict=True):
        assert got.sums == pytest.approx(whole.sums, rel=1e-5) and got.counts == whole.counts


@pytest.mark.parametrize("first", [1, 5, 13])
def test_a_dataset_that_begins_with_its_first_examples(
    build: Build, tokenizer: Any, first: int
) -> None:
    """Measured in two parts or at once: the same bits; and the losses of the dataset as it was."""
    module, prepared = build("llama"), prepare({"sums": DATA["sums"]}, tokenizer, batch_tokens=60)
    (dataset,) = prepared.datasets
    few, whole = begin_with(dataset, first, 60)
    assert (few.n, whole.n, whole.tokens) == (first, 13, dataset.tokens)
    assert few.tokens == sum(len(batch.targets) for batch in few.batches)
    assert whole.batches[: len(few.batches)] == few.batches
    quick, at_once = measure_all(Sweep([few]), module), measure_all(Sweep([whole]), module)
    (plain_quick,) = losses(module, prepare({"sums": DATA["sums"]}, tokenizer, limit=first))
    assert quick.sums == pytest.approx(plain_quick.sums, rel=1e-5)
    assert at_once.counts == next(losses(module, prepared)).counts
    assert at_once.sums == pytest.approx(next(losses(module, prepared)).sums, rel=1e-5)
    assert at_once.sums[:first] == quick.sums
    assert part_of(at_once, few)[:2] == quick[:2] and part_of(at_once, few).sums == quick.sums
    rest = Sweep([whole], {"sums": quick})
    if first < 13:
        assert measure_all(rest, module) == at_once
    assert rest.done
    positions = sum(batch.ids.numel() for batch in whole.batches[len(few.batches) :])
    assert rest.positions == positions


def measure_all(sweep: Sweep, module: Any) -> Loss:
    """The loss of a sweep over one dataset."""
    known = []
    while not sweep.done:
        known += sweep.step(module)
    (loss,) = known
    return loss


def test_a_batch_of_known_and_unknown_examples_is_refused(build: Build, tokenizer: Any) -> None:
    prepared = prepare({"sums": DATA["sums"]}, tokenizer)
    with pytest.raises(ValueError, match=r"a batch has the examples 0 to 12, and 5 are known"):
        Sweep(prepared.datasets, {"sums": Loss("sums", 1.0, 0.1, 5, 9, (1.0,) * 5, (1,) * 5)})
