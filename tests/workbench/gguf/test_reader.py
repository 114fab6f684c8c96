"""What is read from a GGUF file is the model that was written to it, or a refusal that says why."""

import json

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from workbench.gguf.header import ROPE_FACTORS, Refused
from workbench.gguf.positions import LLAMA3, llama3_factors
from workbench.gguf.reader import read

ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, **LLAMA3}


def weights(folder):
    return load_file(folder / "model.safetensors")


def logits(model):
    with torch.no_grad():
        return model(torch.arange(40)[None]).logits


@pytest.mark.parametrize("tied", [True, False])
def test_weights_in_full_precision_come_back_bit_for_bit(make, tmp_path, tied):
    model = make(tmp_path / "f", tie_word_embeddings=tied)
    facts = read(tmp_path / "f", tmp_path / "out", "float32")
    found = weights(tmp_path / "out")
    expected = dict(model.state_dict())
    if tied:
        del expected["lm_head.weight"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert facts["types"] == {"F32": sum(each.numel() for each in model.parameters())}
    assert facts["parameters"] == sum(facts["types"].values()) and facts["notes"] == []
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert "quantization_config" not in config and config["rms_norm_eps"] == 1e-6
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q4_0"])
def test_quantised_weights_are_those_that_the_package_dequantises(make, tmp_path, kind):
    model = make(tmp_path / "f", quantised=kind)
    facts = read(tmp_path / "f", tmp_path / "out", "float32")
    matrices = sum(each.numel() for each in model.parameters() if each.ndim > 1)
    assert facts["types"][kind] == matrices
    stored, name = GGMLQuantizationType[kind], "model.layers.1.mlp.up_proj.weight"
    values = model.state_dict()[name].numpy()
    expected = dequantize(quantize(values, stored), stored)
    assert np.array_equal(weights(tmp_path / "out")[name].numpy(), expected)


def test_halves_are_rounded_once(make, tmp_path):
    model = make(tmp_path / "f")
    read(tmp_path / "f", tmp_path / "out", "bfloat16")
    found = weights(tmp_path / "out")
    assert all(
        torch.equal(found[n], t.bfloat16()) for n, t in model.state_dict().items() if n in found
    )


def test_values_that_a_dtype_cannot_hold_are_refused(make, tmp_path):
    make(tmp_path / "f", change=put(**{"output_norm.weight": np.full(64, 1e5, np.float32)}))
    read(tmp_path / "f", tmp_path / "out", "bfloat16")
    with pytest.raises(Refused, match=r"norm.weight has values that float16 cannot hold"):
        read(tmp_path / "f", tmp_path / "half", "float16")


def test_texts_have_the_tokens_of_the_original_tokenizer(make, blank, tmp_path):
    make(tmp_path / "f")
    read(tmp_path / "f", tmp_path / "out", "float32")
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (blank, tmp_path / "out"))
    for text in ("one plus two", " 12 and  34\n\n46 é <b>", "say hello,world 1234567", ""):
        assert new(text).input_ids == old(text).input_ids
        assert new.decode(new(text).input_ids) == text
    chat = [{"role": "user", "content": "one"}]
    assert new.apply_chat_template(chat, tokenize=False) == "<user>one"


def test_another_architecture(make, tmp_path):
    """Qwen 2: other names of settings, biases, and no turned rows."""
    model = make(tmp_path / "f", "qwen2")
    assert any(name.endswith("q_proj.bias") for name in model.state_dict())
    read(tmp_path / "f", tmp_path / "out", "float32")
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(model)
    )


def scaled(factor_of_rope):
    def change(writer, tensors):
        tensors[ROPE_FACTORS] = factor_of_rope

    return change


def test_the_positions_of_llama_3_are_kept(make, tmp_path):
    factors = llama3_factors(ROPE, 16).numpy()
    model = make(tmp_path / "f", change=scaled(factors), rope_parameters=ROPE)
    facts = read(tmp_path / "f", tmp_path / "out", "float32")
    assert facts["notes"] == ["Positions are scaled: llama3, by 8."]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(again), logits(model))
    plain = make(tmp_path / "plain")
    assert not torch.equal(logits(plain), logits(model))


def test_positions_that_are_scaled_otherwise_are_refused(make, tmp_path):
    factors = np.linspace(1, 8, 8, dtype=np.float32)
    make(tmp_path / "f", change=scaled(factors))
    with pytest.raises(
        Refused, match=r"rope_freqs.weight scales the positions in a way that is not"
    ):
        read(tmp_path / "f", tmp_path / "out", "float32")


@pytest.mark.parametrize(
    ("kind", "words"), [("yarn", ""), ("linear", ""), ("longrope", "longrope")]
)
def test_scaling_by_metadata(make, tmp_path, kind, words):
    def change(writer, tensors):
        writer.add_string("llama.rope.scaling.type", kind)
        writer.add_float32("llama.rope.scaling.factor", 4.0)
        writer.add_uint32("llama.rope.scaling.original_context_length", 32)

    make(tmp_path / "f", change=change)
    if words:
        with pytest.raises(Refused, match=words):
            read(tmp_path / "f", tmp_path / "out", "float32")
        return
    read(tmp_path / "f", tmp_path / "out", "float32")
    rope = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))["rope_parameters"]
    assert (rope["rope_type"], rope["factor"]) == (kind, 4.0)
    assert logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")).isfinite().all()


def put(**values):
    return lambda writer, tensors: tensors.update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(**{"blk.0.attn_extra.weight": np.zeros(3, np.float32)}), "holds .* weights, and transformers"),
        (lambda writer, tensors: tensors.pop("blk.1.ffn_up.weight"), "no weights for .*up_proj"),
        (put(**{"output_norm.weight": np.full(64, np.nan, np.float32)}), "norm.weight holds NaN"),
        (lambda writer, tensors: writer.add_uint16("split.count", 3), "one of 3 parts.*--merge"),
    ],
    ids=["extra", "missing", "NaN", "part"],
)  # fmt: skip
def test_a_model_that_would_be_another_one_is_refused(make, tmp_path, change, words):
    make(tmp_path / "f", change=change)
    with pytest.raises(Refused, match=words):
        read(tmp_path / "f", tmp_path / "out", "float32")


def test_a_way_of_splitting_that_is_not_known_is_told(make, tmp_path):
    def change(writer, tensors):
        writer.kv_data[0]["tokenizer.ggml.pre"].value = "poro-chat"

    make(tmp_path / "f", change=change)
    (note,) = read(tmp_path / "f", tmp_path / "out", "float32")["notes"]
    assert "'poro-chat', is not known" in note


def test_an_architecture_that_transformers_does_not_read(tmp_path):
    writer = GGUFWriter(tmp_path / "f", "abacus")
    writer.add_tensor("beads", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="abacus is not supported"):
        read(tmp_path / "f", tmp_path / "out", "float32")
