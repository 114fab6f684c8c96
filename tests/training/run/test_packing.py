"""Packed examples: the same losses and updates as padded ones, and models that would mix them."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from corpus import Encoded, Example
from training.adapter import Lora
from training.batching.order import collate
from training.batching.packing import bins, pack, pack_rows
from training.errors import TrainingError
from training.run.finetune import run
from training.run.packing_check import check_packing

ROWS = [
    Encoded.of([5, 6, 7], [False, True, True]),
    Encoded.of([8, 9], [True, True]),
    Encoded.of([3, 4, 5, 6, 7, 8], [False] * 5 + [True]),
]
SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SMALL, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1)
    ),
}


def test_rows_one_after_the_other_by_hand():
    """The first token of a row is predicted by no row, also where it is supervised."""
    assert {name: tensor.tolist() for name, tensor in pack(ROWS).items()} == {
        "input_ids": [[5, 6, 7, 8, 9, 3, 4, 5, 6, 7, 8]],
        "labels": [[-100, 6, 7, -100, 9, -100, -100, -100, -100, -100, 8]],
        "position_ids": [[0, 1, 2, 0, 1, 0, 1, 2, 3, 4, 5]],
    }


def test_rows_as_long_as_the_longest_by_hand():
    """The two short examples share a row, which one token of padding fills."""
    assert {name: tensor.tolist() for name, tensor in pack_rows(ROWS, 99).items()} == {
        "input_ids": [[3, 4, 5, 6, 7, 8], [5, 6, 7, 8, 9, 99]],
        "labels": [[-100, -100, -100, -100, -100, 8], [-100, 6, 7, -100, 9, -100]],
        "position_ids": [[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 0]],
    }


def test_bins_hold_every_example_once_and_are_few():
    from random import Random

    rng = Random(0)
    for _ in range(50):
        lengths = [rng.randint(1, 100) for _ in range(rng.randint(1, 40))]
        made = bins(lengths, max(lengths))
        assert sorted(number for each in made for number in each) == list(range(len(lengths)))
        sizes = [sum(lengths[number] for number in each) for each in made]
        assert max(sizes) <= max(lengths)
        least = -(-sum(lengths) // max(lengths))
        assert len(made) <= 11 / 9 * least + 1 or sum(sizes) / len(made) > max(lengths) / 2
    assert bins([5, 2, 3, 4], 6) == [[0], [3, 1], [2]]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_loss_is_that_of_padded_rows(name, attention):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    model.set_attn_implementation(attention)
    check_packing(model, ROWS)
    with torch.no_grad():
        padded, *packed = (
            float(model(**batch, use_cache=False).loss)
            for batch in (collate(ROWS, 0), pack(ROWS), pack_rows(ROWS, 49))
        )
    assert packed == pytest.approx([padded] * 2, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"lora": Lora(4)},
        {"accumulation": 2, "attention": "eager"},
        {"order": "by_length", "checkpointing": True},
        {"groups": (0,) * 30 + (1,) * 5},
    ],
)
def test_a_stage_makes_the_same_updates(stage, tmp_path, change):
    """Examples of 3 to 40 tokens, so that padding would be most of a batch."""
    long = tuple(
        replace(example, completion=example.completion * (1 + 5 * (number % 3)))
        for number, example in enumerate(stage.examples)
    )
    plain = replace(stage, examples=long, validation={"v": stage.examples[:4]}, **change)
    made = [
        run(replace(plain, packing=packing), tmp_path / str(packing)) for packing in (False, True)
    ]
    losses = [[point.loss for point in each.curve] for each in made]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert made[0].counts == made[1].counts
    assert made[0].spent.tokens == made[1].spent.tokens
    name = "adapter_model.safetensors" if "lora" in change else "model.safetensors"
    first, second = (load_file(each.folder / name) for each in made)
    for key, tensor in first.items():
        torch.testing.assert_close(tensor, second[key], rtol=1e-2, atol=2e-5)


def test_a_model_with_a_state_that_runs_through_the_row_is_refused():
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(**SMALL, state_size=4, num_heads=2)).train()
    rows = [
        Encoded.of(list(range(1, 12)), [True] * 11),
        Encoded.of(list(range(20, 30)), [True] * 10),
    ]
    with pytest.raises(TrainingError, match="mamba models cannot be trained with packing"):
        check_packing(model, rows)
    assert model.training


def test_packing_is_refused_before_the_first_step(stage, monkeypatch, tmp_path):
    """A model that takes no notice of positions, as one with learned states would not."""
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward
    monkeypatch.setattr(
        LlamaForCausalLM,
        "forward",
        lambda self, position_ids=None, **inputs: forward(self, **inputs),
    )
    with pytest.raises(TrainingError, match="depend on the one before it. Leave packing out"):
        run(replace(stage, packing=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(stage, tmp_path / "out")


def test_examples_of_one_batch_alone_fill_a_row(stage, tmp_path):
    one = replace(stage, examples=(Example("1 plus 1 is", " 2"),), batch=1, packing=True, steps=1)
    assert run(one, tmp_path / "out").counts["examples"].examples == 1
