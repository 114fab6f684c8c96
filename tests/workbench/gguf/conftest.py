"""Tiny models as GGUF files, written with the gguf package as llama.cpp's converter writes them."""

import json

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize
from transformers import AutoConfig, AutoModelForCausalLM

from workbench.demo.blank_base import write_blank

TEXTS = ["one plus two is three", "12 and 34 make 46", "say hello, <b>world</b>"] * 4
SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def gguf_name(name):
    if name in NAMES:
        return NAMES[name]
    _, _, layer, *middle, kind = name.split(".")
    return f"blk.{layer}.{IN_LAYER['.'.join(middle)]}.{kind}"


def turned(tensor, heads):
    """llama.cpp rotates neighbours, transformers halves: rows of Q and K are interleaved."""
    rows, *rest = tensor.shape
    halves = tensor.reshape(heads, 2, rows // heads // 2, *rest)
    return halves.swapaxes(1, 2).reshape(tensor.shape)


@pytest.fixture(scope="session")
def blank(tmp_path_factory):
    """A folder whose tokenizer the files get."""
    return write_blank(tmp_path_factory.mktemp("blank") / "base", TEXTS, vocabulary=300, hidden=32)


@pytest.fixture(scope="session")
def make(blank):
    """Writes a file and returns the model that is in it; `change` may alter what is written."""

    def write(path, kind="llama", quantised="F32", change=lambda writer, tensors: None, **more):
        config = AutoConfig.for_model(kind, **(SHAPE | more))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        writer = GGUFWriter(path, kind)
        _write_sizes(writer, config)
        _write_tokenizer(writer, blank)
        tensors = {}
        for name, tensor in model.state_dict().items():
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            values = tensor.numpy()
            heads = {"q_proj": SHAPE["num_attention_heads"], "k_proj": SHAPE["num_key_value_heads"]}
            for part, count in heads.items():
                if kind == "llama" and f".{part}." in name:
                    values = turned(values, count)
            tensors[gguf_name(name)] = values
        change(writer, tensors)
        for name, values in tensors.items():
            stored = GGMLQuantizationType[quantised if values.ndim > 1 else "F32"]
            data = quantize(np.ascontiguousarray(values), stored)
            writer.add_tensor(name, data, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return model

    return write


def _write_sizes(writer, config):
    writer.add_name("Tiny [model](x)")
    writer.add_license("apache-2.0")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer, blank):
    tokenizer = json.loads((blank / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    special = {each["content"] for each in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    assert [vocabulary[token] for token in tokens] == list(range(len(tokens)))
    tokens += [f"[PAD{n}]" for n in range(len(tokens), SHAPE["vocab_size"])]
    kinds = [
        TokenType.CONTROL
        if token in special
        else TokenType.UNUSED
        if token.startswith("[PAD")
        else TokenType.NORMAL
        for token in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(0)
    writer.add_chat_template("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
