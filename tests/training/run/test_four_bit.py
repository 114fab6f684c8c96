"""A base in 4 bits: the rounded weights are what the adapter is trained on, and nothing else changes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import load_file, save_file

from training.adapter import Lora
from training.errors import TrainingError, TrainingStopped
from training.run import memory
from training.run.base import Held, open_base
from training.run.finetune import run
from training.run.setup import quiet, set_up
from training.run.shared import Shared

NF4 = {"base_dtype": "nf4", "lora": Lora(2), "precision": "fp32", "rate": 1e-2}


def weights(folder):
    name = "adapter_model.safetensors"
    return load_file(folder / (name if (folder / name).exists() else "model.safetensors"))


def losses(made):
    return [point.loss for point in made.curve if point.loss is not None]


def is_linear(name, tensor):
    return tensor.ndim == 2 and "embed" not in name and "lm_head" not in name


@pytest.fixture(scope="module")
def rounded(tiny, tmp_path_factory):
    """The tiny base with the matrices of its linear layers rounded to NF4, in float32."""
    folder = tmp_path_factory.mktemp("rounded") / "base"
    shutil.copytree(tiny, folder)
    tensors = {}
    for name, tensor in weights(tiny).items():
        if is_linear(name, tensor):
            packed, state = quantize_4bit(tensor, quant_type="nf4", compress_statistics=True)
            tensor = dequantize_4bit(packed, state).reshape(tensor.shape)
        tensors[name] = tensor.contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_an_adapter_is_trained_on_the_rounded_weights(stage, rounded, tmp_path):
    """An oracle: the same adapter on a base in float32 that has these weights."""
    four = run(replace(stage, **NF4), tmp_path / "four")
    plain = run(replace(stage, **NF4 | {"base_dtype": "float32"}, base=rounded), tmp_path / "plain")
    exact = run(replace(stage, **NF4 | {"base_dtype": "float32"}), tmp_path / "exact")
    assert losses(four) == pytest.approx(losses(plain), rel=1e-4)
    assert losses(four) != pytest.approx(losses(exact), rel=1e-4)
    for name, tensor in weights(plain.folder).items():
        torch.testing.assert_close(weights(four.folder)[name], tensor, rtol=1e-2, atol=1e-4)


def test_a_validation_changes_nothing(stage, tmp_path):
    """A library may lay out 4-bit weights anew for inference, and then differentiate them wrongly."""
    measured = {"validation": {"v": stage.examples[:5]}, "evaluate_every": 1}
    made = [
        run(replace(stage, **NF4, **more), tmp_path / str(len(more))) for more in ({}, measured)
    ]
    assert losses(made[0]) == losses(made[1])
    first, second = (weights(each.folder) for each in made)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_stopped_run_ends_in_the_same_bits(stage, tmp_path):
    four = replace(stage, **NF4, save_every=1)
    whole = run(four, tmp_path / "whole")
    asked = []
    with pytest.raises(TrainingStopped):
        run(four, tmp_path / "cut", should_stop=lambda: asked.append(1) or len(asked) == 2)
    resumed = run(four, tmp_path / "cut", resume=True)
    expected, found = weights(whole.folder), weights(resumed.folder)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_steps_that_share_a_base_leave_it_alone(stage, tmp_path):
    shared, four = Shared(), replace(stage, **NF4)
    made = [run(four, tmp_path / name, shared=shared) for name in ("first", "second")]
    assert losses(made[0]) == losses(made[1])


def test_only_matrices_of_linear_layers_are_held_in_four_bits(stage):
    base = open_base(stage.base)
    with quiet():
        model = set_up(replace(stage, **NF4)).model
    sizes = {each.replace(".base_layer", ""): tensor for each, tensor in model.named_parameters()}
    for name, tensor in weights(stage.base).items():
        held = sizes[name]
        if is_linear(name, tensor):
            assert (held.dtype, held.numel()) == (torch.uint8, tensor.numel() / 2)
        else:
            assert (held.dtype, held.shape) == (torch.float32, tensor.shape)
    kept = sum(each.numel() * each.element_size() for each in model.parameters())
    adapters = sum(each.numel() * 4 for each in model.parameters() if each.requires_grad)
    assert base.nbytes(Held(four_bit=True)) == pytest.approx(kept - adapters, rel=0.02)
    assert base.nbytes(Held()) == memory.FLOAT * base.weights.numel


@pytest.fixture
def gpt2(tiny, tmp_path):
    """A GPT-2, whose layers are Conv1D: their matrices are transposed."""
    from transformers import AutoModelForCausalLM, GPT2Config

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 300, "n_positions": 64}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    for file in tiny.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "gpt2")
    return tmp_path / "gpt2"


def test_layers_of_gpt2_are_rounded_too(stage, gpt2, tmp_path):
    made = [
        run(replace(stage, **NF4 | {"base_dtype": dtype}, base=gpt2), tmp_path / dtype)
        for dtype in ("nf4", "float32")
    ]
    first, second = (losses(each) for each in made)
    assert first != second and first == pytest.approx(second, rel=0.05)
    for each in made:  # a merge reads from this which way round the base's matrices are
        assert json.loads((each.folder / "adapter_config.json").read_text())["fan_in_fan_out"]


def test_weights_that_are_trained_themselves_have_no_four_bits(stage):
    with pytest.raises(TrainingError, match='base_dtype is "nf4" and lora is None.*Give lora'):
        replace(stage, base_dtype="nf4")
