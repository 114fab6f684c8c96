"""Assembling: weights from a mapping, transformers' own class, and nothing else that lies in the folder."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import Checkpoint
from merging.errors import LoadError
from merging.live.assemble import assemble, quiet_loading, reloader

SIZES = {
    "vocab_size": 37,
    "hidden_size": 12,
    "intermediate_size": 11,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 23,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a tiny Llama, as save_pretrained writes it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture
def llama(whole, tmp_path):
    """A copy of that folder, to be changed."""
    for file in whole.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def opened(folder, **options):
    return assemble(folder, Checkpoint(folder), dtype=torch.float32, **options)


@pytest.mark.parametrize("trainable", [False, True])
def test_the_module_is_that_of_transformers(whole, trainable):
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM.from_pretrained(whole, dtype=torch.float32)
    module = opened(whole, trainable=trainable)
    assert type(module) is LlamaForCausalLM and not module.training
    assert module.name_or_path == module.config.name_or_path == str(whole)
    assert module.generation_config.to_dict() == theirs.generation_config.to_dict()
    ours = dict(module.named_parameters())
    assert list(ours) == [name for name, _ in theirs.named_parameters()]
    for name, parameter in theirs.named_parameters():
        assert torch.equal(ours[name], parameter)
        assert ours[name].requires_grad == (trainable and parameter.requires_grad)


def test_an_adapter_in_the_folder_is_not_added(llama):
    """transformers' own loader adds it: it takes the folder for that of an adapter."""
    projection = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {
        f"{projection}.lora_A.weight": torch.ones(2, 12),
        f"{projection}.lora_B.weight": torch.ones(12, 2),
    }
    save_file(factors, llama / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (llama / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    module = opened(llama)
    assert set(module.state_dict()) == set(Checkpoint(llama))
    assert not getattr(module, "_hf_peft_config_loaded", False)


def test_a_pickle_beside_the_weights_is_not_opened(llama):
    class Touch:
        def __reduce__(self):
            return os.mkdir, (str(llama / "opened"),)

    (llama / "generation_config.json").unlink()  # it need not be there
    torch.save(Touch(), llama / "pytorch_model.bin")
    torch.save(Touch(), llama / "adapter_model.bin")
    config = json.loads((llama / "config.json").read_text())
    config["transformers_weights"] = "adapter_model.bin"
    (llama / "config.json").write_text(json.dumps(config))
    opened(llama)
    assert not (llama / "opened").exists()


def test_a_composition_is_loaded_in_place(whole):
    module = opened(whole)
    places = [parameter.data_ptr() for parameter in module.parameters()]
    tripled = {name: 3 * tensor for name, tensor in Checkpoint(whole).items()}
    reloader(whole, module)(tripled.items())
    assert [parameter.data_ptr() for parameter in module.parameters()] == places
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, tripled[name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.norm.weight": None}, "model.norm.weight"),
        (
            {"model.norm.weight": torch.ones(13)},
            "model.norm.weight is (13,) in the files and (12,)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(llama, change, words):
    weights = load_file(llama / "model.safetensors") | change
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(weights, llama / "model.safetensors", {"format": "pt"})
    with pytest.raises(LoadError) as caught:
        opened(llama)
    assert words in str(caught.value)


def test_files_that_do_not_describe_a_causal_model_are_named(llama):
    (llama / "generation_config.json").write_text("[1")
    with pytest.raises(LoadError, match=r"generation_config\.json cannot be read"):
        opened(llama)
    config = json.loads((llama / "config.json").read_text()) | {"hidden_act": "nonsense"}
    (llama / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        LoadError, match=r"config\.json describes no causal language model: .*nonsense"
    ):
        opened(llama)


def test_loading_is_silent_and_leaves_the_settings_as_they_were():
    from transformers.utils import logging

    def settings():
        return logging.get_verbosity(), logging.is_progress_bar_enabled()

    before = settings()
    with quiet_loading():
        quiet = settings()
        with quiet_loading():
            pass
        assert settings() == quiet == (logging.CRITICAL, False)
    assert settings() == before
