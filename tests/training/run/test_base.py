"""A base from a stranger: opened by the same door as for measuring, and with the same bits as by transformers."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.errors import TrainingError
from training.run.base import open_base
from training.run.lora import check_start
from training.run.setup import quiet, set_up


@pytest.fixture
def base(tiny, tmp_path):
    """A copy of the tiny base, to be changed."""
    return shutil.copytree(tiny, tmp_path / "base")


class Touch:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def edit(file, **keys):
    document = json.loads(file.read_text("utf-8")) if file.exists() else {}
    file.write_text(json.dumps(document | keys), "utf-8")


def refused(folder, stage):
    with pytest.raises(TrainingError) as caught, quiet():
        set_up(replace(stage, base=folder))
    return str(caught.value)


def test_the_model_is_that_of_transformers(tiny, stage):
    from transformers import AutoModelForCausalLM

    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
        ours = set_up(stage).model
    assert type(ours) is type(theirs) and ours.name_or_path == theirs.name_or_path == str(tiny)
    assert ours.config.to_dict() == theirs.config.to_dict()
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    for (name, one), (other, two) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(one, two)
        assert (one.dtype, one.requires_grad) == (torch.float32, two.requires_grad)


def test_a_bfloat16_base_is_trained_in_float32(base, stage):
    weights = {
        name: tensor.bfloat16() for name, tensor in load_file(base / "model.safetensors").items()
    }
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with quiet():
        model = set_up(replace(stage, base=base)).model
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32 and parameter.requires_grad
        assert torch.equal(parameter, weights[name].float())


@pytest.mark.parametrize("layout", ["one file", "shards", "harmless"])
def test_pickles_are_not_opened(base, stage, tmp_path, layout):
    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    if layout == "shards":
        name = "pytorch_model-00001-of-00001.bin"
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
        (base / "pytorch_model.bin.index.json").write_text(json.dumps(index), "utf-8")
    else:
        name = "pytorch_model.bin"
    torch.save(weights if layout == "harmless" else Touch(tmp_path / "opened"), base / name)
    assert f"holds pickle weights ({name})" in refused(base, stage)
    assert not (tmp_path / "opened").exists()


def test_an_adapter_in_the_base_is_not_trained_upon(base, stage):
    factors = {
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight": torch.ones(shape)
        for side, shape in (("A", (2, 32)), ("B", (32, 2)))
    }
    save_file(factors, base / "adapter_model.safetensors", {"format": "pt"})
    edit(
        base / "adapter_config.json", peft_type="LORA", r=2, lora_alpha=2, target_modules=["q_proj"]
    )
    with quiet():
        model = set_up(replace(stage, base=base)).model
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("file", "keys", "words"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "m.X"}}, "'auto_map', which makes"),
        ("config.json", {"text_config": {"auto_map": {"AutoConfig": "m.X"}}}, "'auto_map', which"),
        ("config.json", {"attn_implementation": "org/kernel"}, "'org/kernel', a package or"),
        ("config.json", {"attn_implementation": "flash_attention_2"}, "'flash_attention_2', a"),
        ("config.json", {"quantization_config": {"bits": 4}}, "quantised weights"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["m.X", None]}}, "'auto_map'"),
    ],
)
def test_settings_that_run_or_fetch_something_are_refused(base, stage, file, keys, words):
    edit(base / file, **keys)
    assert words in refused(base, stage)


def test_an_index_that_leads_out_is_not_followed(base, stage, tmp_path):
    (base / "model.safetensors").rename(tmp_path / "out.safetensors")
    names = load_file(tmp_path / "out.safetensors")
    edit(
        base / "model.safetensors.index.json",
        weight_map=dict.fromkeys(names, "../out.safetensors"),
    )
    assert "An index that points elsewhere is not followed" in refused(base, stage)


def test_a_hub_id_and_a_folder_without_a_tokenizer_are_refused(base, stage):
    from pathlib import Path

    assert "org/name: has no config.json; expected a full checkpoint" in refused(
        Path("org/name"), stage
    )
    for file in base.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(TrainingError, match="holds no tokenizer"):
        open_base(base)


def test_an_adapter_to_continue_is_read_from_safetensors(base, stage, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    edit(adapter / "adapter_config.json", peft_type="LORA", r=2, lora_alpha=4)
    torch.save(Touch(tmp_path / "opened"), adapter / "adapter_model.bin")
    with pytest.raises(TrainingError, match=r"adapter_model\.bin, a pickle"):
        check_start(adapter, stage)
    assert not (tmp_path / "opened").exists()
    save_file({"x": torch.ones(1)}, adapter / "adapter_model.safetensors")
    edit(adapter / "adapter_config.json", use_dora=True)
    with pytest.raises(TrainingError, match="use_dora is set"):
        check_start(adapter, stage)
