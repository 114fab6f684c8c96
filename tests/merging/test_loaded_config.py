"""A config.json as transformers reads it."""

import json

import pytest

from merging.loaded_config import essential, loaded_config


def test_old_spellings_and_defaults_are_one():
    old = loaded_config({"model_type": "llama", "rope_theta": 5e5, "torch_dtype": "float16"})
    new = loaded_config({"model_type": "llama", "rope_parameters": {"rope_theta": 5e5}})
    assert old.rope_parameters["rope_theta"] == new.rope_parameters["rope_theta"] == 5e5
    assert old.hidden_act == "silu"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"model_type": 3},
        {"model_type": "nobody_knows"},
        {"model_type": "llama", "auto_map": {"AutoConfig": "evil.Config"}},
        {"model_type": "llama", "hidden_size": "wide"},
    ],
)
def test_what_transformers_does_not_know_is_none(document):
    assert loaded_config(document) is None


def test_no_kernel_is_asked_for():
    config = loaded_config({"model_type": "llama", "attn_implementation": "org/kernel"})
    assert config._attn_implementation != "org/kernel"


def test_infinities_are_read_as_transformers_writes_them():
    limits = [0.0, {"__float__": "Infinity"}]
    config = loaded_config({"model_type": "bamba", "time_step_limit": limits})
    assert list(config.time_step_limit) == [0.0, float("inf")]


def test_what_changes_no_output_is_left_out_at_any_depth():
    document = {"x": 1, "dtype": "float16", "text_config": [{"use_cache": True, "y": 2}]}
    assert essential(document) == {"x": 1, "text_config": [{"y": 2}]}


def test_a_document_without_end_is_cut():
    deep = json.loads('{"x":' * 900 + "1" + "}" * 900)
    cut = essential(deep)
    for _ in range(60):
        cut = cut["x"]
    assert cut == {"x": None}
