"""Modules of the loaded model, with PEFT as the oracle: what is written is what moves."""

import json
import warnings

import pytest
import torch
import transformers
from transformers import AutoConfig

from merging import Checkpoint, LoraVector, MismatchError
from merging.errors import LoadError
from merging.opening.open import open_vector
from merging.outputs.adapter_export import export_adapter
from merging.outputs.adapter_extract import extract
from merging.outputs.loaded_modules import loaded_modules

IDS = {"vocab_size": 31, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {
    "hidden_size": 14,
    "intermediate_size": 23,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
QUERIES = IDS | SIZES | {"head_dim": 6, "num_key_value_heads": 1}
EXPERTS = QUERIES | {"num_experts_per_tok": 2}
GPT2 = IDS | {"n_layer": 2, "n_head": 2, "n_embd": 14, "n_positions": 17}
TOWER = SIZES | {"model_type": "clip_vision_model", "image_size": 4, "patch_size": 2}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
SEEN = {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2}

# Class, its configuration, the number of linear modules that move, and words of the reasons.
MODELS = {
    "llava": (
        "LlavaForConditionalGeneration",
        {"text_config": QUERIES | {"model_type": "llama"}, "vision_config": TOWER},
        28,
        [],
    ),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": QUERIES
            | {"model_type": "qwen2_vl_text", "hidden_size": 16, "rope_parameters": ROPE},
            "vision_config": SEEN | {"patch_size": 2, "in_chans": 3},
        },
        24,
        [],
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 31, "d_model": 14, "d_kv": 6, "d_ff": 23, "num_layers": 2, "num_heads": 2},
        32,
        ["they are embeddings"],
    ),
    "mamba": (
        "MambaForCausalLM",
        IDS | {"hidden_size": 14, "num_hidden_layers": 2, "state_size": 5, "time_step_rank": 3},
        6,
        ["PEFT refuses them: ", "out_proj"],
    ),
    "mixtral": (
        "MixtralForCausalLM",
        EXPERTS | {"num_local_experts": 3},
        8,
        ["stacks, joins or splits them", "they belong to a MixtralTopKRouter"],
    ),
    "gpt2": ("GPT2LMHeadModel", GPT2, 8, []),
    "phi3": ("Phi3ForCausalLM", QUERIES | {"hidden_size": 16}, 8, []),
    "bert": ("BertModel", IDS | SIZES, 13, []),
    "vit": (
        "ViTModel",
        SIZES | {"image_size": 4, "patch_size": 2},
        13,
        [],
    ),
}
FAST = ("llava", "t5", "mamba", "mixtral")


def model(kind):
    name, sizes, *_ = MODELS[kind]
    torch.manual_seed(0)
    return getattr(transformers, name)(AutoConfig.for_model(kind, **sizes))


def moved_pair(kind, folder):
    """A base, and a fine-tune that moved every parameter."""
    base, tuned = model(kind), model(kind)
    random = torch.Generator().manual_seed(5)
    for parameter in tuned.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=random)
    base.save_pretrained(folder / "base")
    tuned.save_pretrained(folder / "full")
    opened = Checkpoint(folder / "base")
    return opened, open_vector(folder / "full", opened)


@pytest.mark.parametrize(
    "kind", [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in MODELS]
)
def test_peft_moves_each_module_that_was_written_and_no_other(kind, tmp_path):
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    *_, count, words = MODELS[kind]
    base, vector = moved_pair(kind, tmp_path)
    fit = extract(vector, base, tmp_path / "out", rank=2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")  # PEFT only warns of keys that it does not find
        loaded = PeftModel.from_pretrained(
            type(model(kind)).from_pretrained(tmp_path / "base"), tmp_path / "out"
        )
    assert not [each for each in said if "adapter keys" in str(each.message)]
    layers = [module for module in loaded.modules() if isinstance(module, BaseTunerLayer)]
    assert len(layers) == len(fit.rows) == count
    assert all(layer.lora_B["default"].weight.any() for layer in layers)
    loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged, written = Checkpoint(tmp_path / "merged"), LoraVector(tmp_path / "out", base)
    assert {name for name in base if not torch.equal(merged[name], base[name])} == set(written)
    for name in written:
        torch.testing.assert_close(base[name] + written[name], merged[name], rtol=0, atol=1e-6)
    reasons = [part.why for part in fit.left_out]
    assert all(any(word in reason for reason in reasons) for word in words)
    task = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["task_type"]
    assert (task is None) == (kind in ("bert", "vit"))


def test_a_base_without_the_prefix_of_its_class(tmp_path):
    """As GPT-2 is on the hub: bare names, and the class of a model with a head."""
    from safetensors.torch import load_file, save_file

    for folder in ("base", "full"):
        moved_pair("gpt2", tmp_path) if folder == "base" else None
        file = tmp_path / folder / "model.safetensors"
        bare = {k.removeprefix("transformer."): v for k, v in load_file(file).items()}
        save_file(bare, file, {"format": "pt"})
    base = Checkpoint(tmp_path / "base")
    fit = extract(open_vector(tmp_path / "full", base), base, tmp_path / "out", rank=2)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"][0] == "transformer.h.0.attn.c_attn" and len(fit.rows) == 8
    assert list(LoraVector(tmp_path / "out", base)) == [row.name for row in fit.rows]


def test_a_composition_is_written_under_the_loaded_models_names(tmp_path, adapter, recipe):
    """The adapter has transformers 4's paths, which PEFT would not find in version 5."""
    base, _ = moved_pair("llava", tmp_path)
    names = [f"language_model.model.layers.{n}.self_attn.q_proj" for n in range(2)]
    vector = LoraVector(adapter(tmp_path / "old", base, names), base, "old")
    export_adapter(recipe({"old": 0.5}), base, {"old": vector}, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == [
        f"model.language_model.layers.{n}.self_attn.q_proj" for n in range(2)
    ]
    again = LoraVector(tmp_path / "out", base)
    for name in vector:
        torch.testing.assert_close(again[name], 0.5 * vector[name])


# ------------------------------------------------------------------------------------------ refused


def broken(tmp_path, **changes):
    moved_pair("gpt2", tmp_path)
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return Checkpoint(tmp_path / "base")


def test_a_model_that_cannot_be_made(tmp_path, adapter, recipe):
    base = broken(tmp_path, n_head=5)
    name = "transformer.h.0.attn.c_attn.weight"
    with pytest.raises(LoadError, match=r"config.json: the model cannot be made, so the paths of"):
        loaded_modules(base, [name])
    # An adapter knows its own paths.
    vector = LoraVector(adapter(tmp_path / "a", base, [name.removesuffix(".weight")]), base, "a")
    export_adapter(recipe({"a": 1.0}), base, {"a": vector}, tmp_path / "out")
    assert list(LoraVector(tmp_path / "out", base)) == [name]


@pytest.mark.parametrize("named", [["pipeline"], ["AutoTokenizer", "no such"], []])
def test_a_class_that_is_no_model_is_not_called(named, tmp_path):
    base = broken(tmp_path, architectures=named)
    name = "transformer.h.0.attn.c_attn.weight"
    assert loaded_modules(base, [name]).modules[name].path == name.removesuffix(".weight")


def test_more_layers_than_tensors(tmp_path):
    with pytest.raises(LoadError, match=r"names 999 layers; the files hold 28 tensors"):
        loaded_modules(broken(tmp_path, n_layer=999), [])


def test_other_shapes_and_tensors_that_the_model_lacks(tmp_path):
    base = broken(tmp_path, n_inner=23)
    names = ["transformer.h.0.mlp.c_fc.weight", "transformer.h.0.attn.c_attn.weight"]
    found = loaded_modules(base, names)
    assert list(found.modules) == names[1:] and found.modules[names[1]].transposed
    assert found.reasons == {names[0]: "config.json describes other shapes than the files have"}
    shallow = loaded_modules(broken(tmp_path / "b", n_layer=1), ["transformer.h.1.mlp.c_fc.weight"])
    assert list(shallow.reasons.values()) == ["the loaded model does not have them"]


def test_a_model_without_a_module_that_peft_adapts(tmp_path):
    base, vector = moved_pair("gpt2", tmp_path)
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_embd": 16}))
    with pytest.raises(
        MismatchError, match=r"nothing else \(config.json describes other shapes than the files"
    ):
        extract(vector, Checkpoint(base.path), tmp_path / "out", rank=2)
