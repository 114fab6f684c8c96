"""Layer and part of real names of real families."""

import pytest

from merging.tensor_names import PARTS, Place, is_buffer, natural_key, place, reading_order


@pytest.mark.parametrize(
    ("name", "stack", "layer", "part"),
    [
        ("model.embed_tokens.weight", "", None, "embeddings"),
        ("model.layers.12.self_attn.q_proj.weight", "model.layers", 12, "attention"),
        ("model.layers.12.self_attn.q_proj.bias", "model.layers", 12, "attention"),
        ("model.layers.3.self_attn.q_norm.weight", "model.layers", 3, "norms"),
        ("model.layers.3.post_attention_layernorm.weight", "model.layers", 3, "norms"),
        ("model.layers.3.mlp.experts.7.down_proj.weight", "model.layers", 3, "mlp"),
        ("model.layers.1.block_sparse_moe.experts.5.w1.weight", "model.layers", 1, "mlp"),
        ("model.layers.1.block_sparse_moe.gate.weight", "model.layers", 1, "mlp"),
        ("model.norm.weight", "", None, "norms"),
        ("lm_head.weight", "", None, "head"),
        ("transformer.h.0.attn.c_attn.weight", "transformer.h", 0, "attention"),
        ("transformer.h.0.mlp.c_fc.bias", "transformer.h", 0, "mlp"),
        ("transformer.h.0.ln_2.weight", "transformer.h", 0, "norms"),
        ("transformer.ln_f.bias", "", None, "norms"),
        ("wte.weight", "", None, "embeddings"),
        ("wpe.weight", "", None, "embeddings"),
        ("gpt_neox.layers.5.attention.query_key_value.weight", "gpt_neox.layers", 5, "attention"),
        ("gpt_neox.layers.5.mlp.dense_h_to_4h.weight", "gpt_neox.layers", 5, "mlp"),
        ("gpt_neox.final_layer_norm.weight", "", None, "norms"),
        ("embed_out.weight", "", None, "head"),
        ("encoder.block.2.layer.0.SelfAttention.q.weight", "encoder.block", 2, "attention"),
        ("encoder.block.2.layer.1.DenseReluDense.wi.weight", "encoder.block", 2, "mlp"),
        ("model.decoder.layers.1.fc1.weight", "model.decoder.layers", 1, "mlp"),
        ("roberta.pooler.token_embedding_table.weight", "", None, "embeddings"),
        ("blocks.4.my_attn_thing.weight", "blocks", 4, "attention"),
        ("blocks.4.my_ffn_thing.weight", "blocks", 4, "mlp"),
        ("blocks.4.my_norm_thing.weight", "blocks", 4, "norms"),
        ("blocks.4.mystery.weight", "blocks", 4, "other"),
        ("mystery", "", None, "other"),
    ],
)
def test_place(name, stack, layer, part):
    assert place(name) == Place(stack, layer, part)
    assert part in PARTS


def test_labels_are_layer_numbers_or_parts():
    assert place("model.layers.12.mlp.up_proj.weight").label == "12"
    assert place("model.norm.weight").label == "norms"


def test_natural_order_reads_numbers_as_numbers():
    assert sorted(["h.10.w", "h.9.w", "h.9.b", "2", "a"], key=natural_key) == [
        "a",
        "h.9.b",
        "h.9.w",
        "h.10.w",
        "2",
    ]
    assert sorted(["²", "²1", "1"], key=natural_key) == [
        "²",
        "²1",
        "1",
    ]  # a digit to str.isdigit, but no number to int


def test_reading_order_walks_the_model():
    names = [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.10.a.weight",
        "model.layers.2.a.weight",
        "model.norm.weight",
        "zzz",
    ]
    assert reading_order(names) == [
        "model.embed_tokens.weight",
        "model.layers.2.a.weight",
        "model.layers.10.a.weight",
        "model.norm.weight",
        "zzz",
        "lm_head.weight",
    ]


@pytest.mark.parametrize(
    ("name", "dimensions", "wanted"),
    [
        ("transformer.h.0.attn.bias", 4, True),
        ("transformer.h.0.attn.bias", 1, False),
        ("transformer.h.0.attn.masked_bias", 0, True),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", 1, True),
        ("embeddings.position_ids", 2, True),
        ("bn.num_batches_tracked", 0, True),
        ("model.layers.0.self_attn.q_proj.bias", 1, False),
    ],
)
def test_buffers_are_constants_of_the_code(name, dimensions, wanted):
    assert is_buffer(name, dimensions) is wanted
