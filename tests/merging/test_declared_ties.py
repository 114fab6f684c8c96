"""What transformers ties, with the parameters of its own loaded models as the oracle."""

import pytest
import torch
import transformers

from merging.declared_ties import filled_parameters

IDS = {"vocab_size": 31, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
SHARED_BLOCKS = {
    "num_hidden_layers": 6,
    "num_key_value_heads": 4,
    "mamba_d_state": 8,
    "mamba_dt_rank": 4,
    "n_mamba_heads": 1,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "attention_head_dim": 8,
    "use_mamba_kernels": False,
}


def made(name, config):
    torch.manual_seed(0)
    return getattr(transformers, name)(getattr(transformers, config[0])(**config[1]))


def ties(numbers, names):
    """Groups of names with one number."""
    groups = {}
    for name in names:
        groups.setdefault(numbers[name], []).append(name)
    return sorted(group for group in groups.values() if len(group) > 1)


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [
        ("BertForMaskedLM", ("BertConfig", IDS | SIZES | {"num_hidden_layers": 1}), 2),
        ("BertForMaskedLM", ("BertConfig", IDS | SIZES | {"tie_word_embeddings": False}), 0),
        (
            "T5ForConditionalGeneration",
            ("T5Config", {"vocab_size": 31, "d_model": 14, "d_kv": 6, "d_ff": 23, "num_layers": 1}),
            1,
        ),
        # Whole blocks inside the layers.
        ("ZambaForCausalLM", ("ZambaConfig", IDS | SIZES | SHARED_BLOCKS), 10),
    ],
)
def test_names_of_one_parameter_have_one_number(name, config, count):
    model = made(name, config)
    state = model.state_dict(keep_vars=True)
    document = model.config.to_dict() | {"architectures": [name]}
    found = filled_parameters(document, list(state), most_layers=99)
    assert set(found) == set(state)
    wanted = ties({key: id(value) for key, value in state.items()}, state)
    assert ties(found, state) == wanted
    assert len(wanted) == count


def test_names_that_the_model_lacks_or_stacks_are_left_out():
    config = IDS | SIZES | {"num_hidden_layers": 1, "model_type": "mixtral"}
    stacked = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    found = filled_parameters(config, ["model.norm.weight", "no.such", stacked], most_layers=9)
    assert list(found) == ["model.norm.weight"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"model_type": "nobody_knows"},
        {"model_type": "llama", "num_hidden_layers": 10**9},
        {"model_type": "llama", "hidden_size": 3, "num_attention_heads": 0},
        # A configuration that is read, and of which no model can be made.
        {"model_type": "llama", "hidden_act": "no_such", "num_hidden_layers": 1},
    ],
)
def test_a_model_that_transformers_cannot_make_is_none(document):
    assert filled_parameters(document, ["a"], most_layers=9) is None
