"""config.json of a stranger: what runs code, fetches something or reads elsewhere is refused."""

import json

import pytest

from merging.errors import LoadError
from merging.live.model_config import read_config

PLAIN = {"model_type": "llama", "hidden_size": 12, "num_attention_heads": 2}


@pytest.fixture
def config(tmp_path):
    """config(**keys): the configuration that is read from a folder with these keys besides PLAIN."""

    def read(**keys):
        (tmp_path / "config.json").write_text(json.dumps(PLAIN | keys), "utf-8")
        return read_config(tmp_path)

    return read


def test_a_plain_configuration_is_that_of_transformers(config):
    read = config(
        torch_dtype="bfloat16",
        rms_norm_eps=1e-5,
        cache_implementation="hybrid",
        quantization_config=None,
        auto_map={},
        trust_remote_code=False,
    )
    assert (type(read).__name__, read.hidden_size, read.rms_norm_eps) == ("LlamaConfig", 12, 1e-5)


@pytest.mark.parametrize("name", ["eager", "sdpa", "flex_attention", None])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_built_in_attention_is_kept(config, key, name):
    assert config(**{key: name})._attn_implementation == name


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines", "custom_generate"])
@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"text_config": x}, lambda x: {"a": [[x]]}]
)
def test_code_is_refused_at_any_depth(config, key, wrap):
    with pytest.raises(LoadError, match=f"holds '{key}', which makes a loader run code"):
        config(**wrap({key: {"AutoModel": "modeling.X"}}))


@pytest.mark.parametrize(
    "value",
    ["kernels-community/x", "org/x@main:forward", "paged|org/x", "flash_attention_2", "nonsense",
     {"": "sdpa", "vision_config": "org/x"}, {"text_config": {"": "org/x"}}, ["org/x"], 3],
)  # fmt: skip
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation_internal"])
def test_kernels_and_packages_are_refused_as_attention(config, key, value):
    with pytest.raises(LoadError, match=f"{key} is .*Built in are eager, sdpa, flex_attention"):
        config(**{key: value})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"text_config": {"_attn_implementation": "org/x"}}, "_attn_implementation is 'org/x'"),
        ({"experts_implementation": "sonicmoe"}, "Built in are eager, batched_mm, grouped_mm"),
        ({"cache_implementation": "org/x"}, "Built in are the names without a slash"),
        ({"use_kernels": True}, "use_kernels asks for kernels of the hub"),
        ({"vision_config": {"kernel_config": {"RMSNorm": "org/x"}}}, "kernel_config asks for"),
        ({"configuration_files": ["config.4.0.0.json"]}, "names other files for this one"),
        ({"vision_config": {"backbone": "org/resnet"}}, "backbone names another model"),
        ({"backbone": "resnet50"}, "backbone names another model, 'resnet50'"),
        ({"vision_config": {"architecture": "hf-hub:org/x"}}, "another model's address"),
        ({"architecture": "local-dir:/etc"}, "another model's address"),
        ({"quantization_config": {"quant_method": "fp8"}}, "describes quantised weights"),
        ({"text_config": {"compression_config": {"x": 1}}}, "describes quantised weights"),
        ({"model_type": "no-such-type"}, "no-such-type"),
    ],
)  # fmt: skip
def test_what_is_fetched_or_not_plain_weights_is_refused(config, keys, words):
    with pytest.raises(LoadError) as caught:
        config(**keys)
    assert words in str(caught.value) and "config.json" in str(caught.value)


def test_a_file_that_is_no_object_is_refused(tmp_path):
    for text, words in (("[1]", "holds a JSON list"), ('{"a": 1, "a": 2}', "occurs twice"), ("{", "not valid JSON")):  # fmt: skip
        (tmp_path / "config.json").write_text(text, "utf-8")
        with pytest.raises(LoadError, match=words):
            read_config(tmp_path)


def test_a_hub_id_is_no_folder(tmp_path):
    with pytest.raises(LoadError, match="org/name is not a folder"):
        read_config(tmp_path.relative_to(tmp_path) / "org/name")
    with pytest.raises(LoadError, match=r"has no config\.json"):
        read_config(tmp_path)
