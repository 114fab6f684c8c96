"""config.json of an export, with transformers' own loading of base and export as the oracle."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from evaluation.model import load
from merging import Checkpoint, DistributionVector, Recipe, export
from merging.errors import LoadError

T5 = {"vocab_size": 31, "d_model": 14, "d_kv": 6, "d_ff": 23, "num_layers": 1, "num_heads": 2}
SIZES = {"vocab_size": 31, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
TEXT = SIZES | {"model_type": "llama", "num_attention_heads": 2}
TOWER = {"model_type": "clip_vision_model", "image_size": 4, "patch_size": 2}
TOWER |= {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
TOWER |= {"num_attention_heads": 2}
MODELS = {
    "T5ForConditionalGeneration": T5,
    "LlamaForCausalLM": TEXT,
    "LlavaForConditionalGeneration": {"text_config": TEXT, "vision_config": TOWER},
}


def stripped(node):
    """A configuration without any dtype."""
    if not isinstance(node, dict):
        return node
    return {key: stripped(value) for key, value in node.items() if "dtype" not in key}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name -> its class, the configuration without any dtype, and weights in bfloat16."""
    made = {}
    for name, given in MODELS.items():
        cls = getattr(transformers, name)
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        cls(cls.config_class(**given)).to(torch.bfloat16).save_pretrained(folder)
        config = stripped(json.loads((folder / "config.json").read_text()))
        made[name] = cls, config, load_file(folder / "model.safetensors")
    return made


def base_of(folder, config, tensors, metadata=None, shards=("s-2", "s-10")):
    """A folder of one file, or of two if the index has metadata; the last names go in the second."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if metadata is None:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return Checkpoint(folder)
    names = sorted(tensors)
    weight_map = {}
    for shard, part in zip(shards, (names[:3], names[3:]), strict=True):
        file = f"{shard}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": metadata, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return Checkpoint(folder)


def exported(base, out, **more):
    recipe = Recipe.compose(str(base.path), {"a": "a"}, {"a": 0.5}, **more)
    vectors = {"a": DistributionVector("a", base, Checkpoint(base.path))}
    return export(recipe, base, vectors, out)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("wide", ["first", "last"])
def test_mixed_files_of_any_class_keep_the_dtype_of_their_base(saved, tmp_path, name, wide):
    cls, config, tensors = saved[name]
    one = sorted(tensors)[0 if wide == "first" else -1]
    base = base_of(tmp_path / "base", config, tensors | {one: tensors[one].float()})
    wanted = cls.from_pretrained(base.path).dtype
    assert cls.from_pretrained(exported(base, tmp_path / "out")).dtype == wanted


@pytest.mark.parametrize("metadata", [{}, {"dtype": "float16"}])
@pytest.mark.parametrize("shards", [("s-2", "s-10"), ("s-1", "s-2")])
def test_an_index_may_name_the_dtype_and_text_orders_its_files(saved, tmp_path, metadata, shards):
    cls, config, tensors = saved["LlamaForCausalLM"]
    # The first file is in float32, the second in bfloat16; s-10 is opened before s-2.
    wide = {name: tensors[name].float() for name in sorted(tensors)[:3]}
    base = base_of(tmp_path / "base", config, tensors | wide, metadata, shards)
    wanted = cls.from_pretrained(base.path).dtype
    first = torch.bfloat16 if "s-10" in shards else torch.float32
    assert wanted == (torch.float16 if metadata else first)
    assert load(base.path, checkpoint=base).module.dtype == wanted
    assert cls.from_pretrained(exported(base, tmp_path / "out")).dtype == wanted


def test_what_is_no_dtype_is_refused_where_transformers_fails(saved, tmp_path):
    _, config, tensors = saved["LlamaForCausalLM"]
    base = base_of(tmp_path / "base", config, tensors, {"dtype": "torch.bf16"})
    with pytest.raises(LoadError, match="the dtype that config.json or .* names is unknown"):
        load(base.path, checkpoint=base)
    # Nothing loads it, so nothing can disagree.
    assert "dtype" not in json.loads((exported(base, tmp_path / "out") / "config.json").read_text())


def test_an_index_whose_metadata_is_no_table_names_none(saved, tmp_path):
    _, config, tensors = saved["LlamaForCausalLM"]
    base = base_of(tmp_path / "base", config, tensors, ["float16"])
    assert load(base.path, checkpoint=base).module.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"torch_dtype": "bfloat16"},
        {"dtype": {"": "bfloat16", "text_config": "float32"}},
        {"layers": [{"dtype": "bfloat16"}, {"torch_dtype": None}], "vocabulary": {"dtype": 17}},
    ],
)
def test_the_recipes_dtype_is_that_of_every_part(saved, tmp_path, keys):
    cls, config, tensors = saved["LlavaForConditionalGeneration"]
    config |= {"text_config": config["text_config"] | {"torch_dtype": "bfloat16"}}
    base = base_of(tmp_path / "base", config | keys, tensors)
    out = exported(base, tmp_path / "out", out_dtype="float16")
    written = json.loads((out / "config.json").read_text())
    at_top = "torch_dtype" if "torch_dtype" in keys else "dtype"
    assert written[at_top] == "float16"
    assert written["text_config"]["torch_dtype"] == "float16"
    assert written["vision_config"]["dtype"] == "float16"
    if "layers" in keys:
        assert written["layers"] == [{"dtype": "float16"}, {"torch_dtype": "float16"}]
        assert written["vocabulary"] == {"dtype": 17}
    model = cls.from_pretrained(out)
    assert {value.dtype for value in model.parameters()} == {torch.float16}


def test_files_beside_config_json_follow_the_recipe_too(tmp_path):
    own = {"1_Dense": {"torch_dtype": "float32", "in_features": 3}}
    tensors = {"up.weight": torch.ones(5, 3)}
    folder = tmp_path / "base"
    for at in ("", "1_Dense", "notes"):
        (folder / at).mkdir(parents=True, exist_ok=True)
        (folder / at / "config.json").write_text(json.dumps(own.get(at, {"dtype": "float32"})))
    for at in ("", "1_Dense"):
        save_file(tensors, folder / at / "model.safetensors", {"format": "pt"})
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Dense"}]
    modules = [
        each | {"name": str(each["idx"]), "type": "sentence_transformers.models.Dense"}
        for each in modules
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    generation = {"torch_dtype": "float32", "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    base = Checkpoint(folder)
    out = exported(base, tmp_path / "out", out_dtype="bfloat16")

    def read(name, at=out):
        return json.loads((at / name).read_text())

    assert read("generation_config.json") == generation | {"torch_dtype": "bfloat16"}
    assert read("1_Dense/config.json") == own["1_Dense"] | {"torch_dtype": "bfloat16"}
    # Its weights are not merged.
    assert read("notes/config.json") == {"dtype": "float32"}
    same = exported(base, tmp_path / "same")
    assert read("1_Dense/config.json", same) == own["1_Dense"]
    (folder / "generation_config.json").write_text("{no JSON")
    out = exported(base, tmp_path / "more", out_dtype="bfloat16")
    assert (out / "generation_config.json").read_text() == "{no JSON"
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    out = exported(base, tmp_path / "none", out_dtype="bfloat16")
    assert (out / "generation_config.json").read_text() == '{"eos_token_id": 2}'
