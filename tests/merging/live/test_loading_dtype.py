"""Live, `from_pretrained(base)` and `from_pretrained(export)` agree about the dtype."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from evaluation.model import load
from merging import Checkpoint, DistributionVector, Recipe, export

WIDE = "model.norm.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny Llama in bfloat16."""
    folder = tmp_path_factory.mktemp("dtype") / "model"
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def variant(saved, folder, keys, wide, shards=False):
    """A copy with other dtype keys in config.json, some tensors in float32, perhaps in two files."""
    folder.mkdir()
    config = json.loads((saved / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    (folder / "config.json").write_text(json.dumps(config | keys))
    tensors = load_file(saved / "model.safetensors")
    tensors = {name: value.float() if name in wide else value for name, value in tensors.items()}
    if not shards:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:4], names[4:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize(
    ("keys", "wide"),
    [
        ({}, ()),
        ({}, (WIDE,)),
        ({}, ("lm_head.weight",)),
        ({}, ("model.embed_tokens.weight", "lm_head.weight")),
        ({"dtype": "float32"}, ()),
        ({"torch_dtype": "float32"}, (WIDE,)),
        ({"torch_dtype": None}, (WIDE,)),
    ],
)
def test_live_base_and_export_have_one_dtype(saved, tmp_path, keys, wide, shards):
    folder = variant(saved, tmp_path / "base", keys, wide, shards)
    base = Checkpoint(folder)
    live = load(folder, checkpoint=base).module.dtype
    assert live == AutoModelForCausalLM.from_pretrained(folder).dtype
    vectors = {"a": DistributionVector("a", base, Checkpoint(folder))}
    recipe = Recipe.compose(str(folder), {"a": str(folder)}, {"a": 0.5})
    out = export(recipe, base, vectors, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(out).dtype == live
    again = export(recipe, base, vectors, tmp_path / "shards", shard_bytes=1500)
    assert AutoModelForCausalLM.from_pretrained(again).dtype == live


def test_the_recipes_dtype_reaches_every_part_of_the_configuration(saved, tmp_path):
    nested = {
        "dtype": "bfloat16",
        "text_config": {"torch_dtype": "bfloat16", "deeper": {"dtype": None, "dropout": 0.1}},
        "vision_config": {"dtype": "float32", "hidden_size": 8},
        "quantization": {"compute_dtype": "float16"},
    }
    folder = variant(saved, tmp_path / "base", nested, ())
    base = Checkpoint(folder)
    vectors = {"a": DistributionVector("a", base, Checkpoint(folder))}
    recipe = Recipe.compose(str(folder), {"a": str(folder)}, {"a": 0.5}, out_dtype="float16")
    out = export(recipe, base, vectors, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert config["text_config"] == {
        "torch_dtype": "float16",
        "deeper": {"dtype": "float16", "dropout": 0.1},
    }
    assert config["vision_config"] == {"dtype": "float16", "hidden_size": 8}
    assert config["quantization"] == {"compute_dtype": "float16"}


def test_a_folder_that_transformers_cannot_load_keeps_its_configuration(saved, tmp_path):
    folder = variant(saved, tmp_path / "base", {"model_type": "no_such_model"}, (WIDE,))
    base = Checkpoint(folder)
    vectors = {"a": DistributionVector("a", base, Checkpoint(folder))}
    recipe = Recipe.compose(str(folder), {"a": str(folder)}, {"a": 0.5})
    out = export(recipe, base, vectors, tmp_path / "out")
    assert (out / "config.json").read_bytes() == (folder / "config.json").read_bytes()
