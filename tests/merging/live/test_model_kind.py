"""A model that cannot run as a causal language model is called what it is, and can be exported."""

import json

import pytest
import torch

from merging import Checkpoint, Recipe, export, open_recipe, verify
from merging.errors import LoadError
from merging.live.assemble import assemble

WHAT = r"Loss, benchmarks and the page need a causal language model\. This one can be merged"
LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 11}
SMALL = {"vocab_size": 31, "hidden_size": 8, **LAYERS}
SEQ = {"vocab_size": 31, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1}
SEQ |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 11}
SEQ |= {"encoder_ffn_dim": 11, "pad_token_id": 0, "max_position_embeddings": 17}
T5 = {"vocab_size": 31, "d_model": 8, "d_kv": 4, "d_ff": 11, "num_layers": 1, "num_heads": 2}
VISION = {**LAYERS, "hidden_size": 8, "image_size": 8, "patch_size": 4}

KINDS = {
    "T5ForConditionalGeneration": (T5, "is an encoder-decoder model"),
    "BartForConditionalGeneration": (SEQ, "is an encoder-decoder model"),
    "BartForSequenceClassification": (SEQ, "is an encoder-decoder model"),
    "T5EncoderModel": (T5, "is no causal language model"),
    "BertForMaskedLM": (SMALL, "reads a text in both directions"),
    "RobertaForTokenClassification": (SMALL, "reads a text in both directions"),
    "LlamaModel": (SMALL, "is a model without a head"),
    "LlamaForSequenceClassification": (SMALL, "is a model for sequence classification"),
    "Qwen2ForQuestionAnswering": (SMALL, "is a model for question answering"),
    "ViTForImageClassification": (VISION, "is a model for image classification"),
}


def saved(folder, name, sizes):
    """A model of this class with random weights."""
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, name)
    kind(kind.config_class(**sizes)).save_pretrained(folder)
    return Checkpoint(folder)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_called_what_it_is(name, tmp_path):
    sizes, what = KINDS[name]
    weights = saved(tmp_path, name, sizes)
    with pytest.raises(LoadError, match=rf"{name} {what}.*{WHAT}"):
        assemble(tmp_path, weights, dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("GPT2Model", {"vocab_size": 31, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 5}),
        ("GPTNeoXForCausalLM", SMALL),
        ("BertLMHeadModel", {**SMALL, "is_decoder": True}),
        ("BartForCausalLM", SEQ),
    ],
)
def test_what_is_one_is_loaded_whatever_its_configuration_says_of_decoders(name, sizes, tmp_path):
    module = assemble(tmp_path, saved(tmp_path, name, sizes), dtype=torch.float32)
    ids = torch.tensor([[3, 5, 7]])
    other = torch.tensor([[3, 5, 11]])
    # No prediction sees what comes later.
    logits = [module(input_ids=given).logits[0, :2] for given in (ids, other)]
    assert torch.allclose(*logits, atol=1e-6)


def test_files_without_the_head_that_the_configuration_names(tmp_path):
    saved(tmp_path, "LlamaModel", SMALL)
    config = json.loads((tmp_path / "config.json").read_text())
    document = config | {"architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(document))
    weights = {f"model.{name}": value for name, value in Checkpoint(tmp_path).items()}
    with pytest.raises(LoadError, match="needs lm_head.weight.*They were saved without the head"):
        assemble(tmp_path, weights, dtype=torch.float32)
    del weights["model.norm.weight"]
    with pytest.raises(LoadError, match="Take config.json and the weights from the same model"):
        assemble(tmp_path, weights, dtype=torch.float32)
    # A configuration that names no class says nothing of what the model is.
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": None}))
    with pytest.raises(LoadError, match="Take config.json and the weights from the same model"):
        assemble(tmp_path, weights, dtype=torch.float32)


def test_it_is_merged_and_exported_all_the_same(tmp_path):
    """Halfway between two encoder-decoder models, with transformers as the reader."""
    from transformers import AutoModelForSeq2SeqLM

    base = saved(tmp_path / "base", "T5ForConditionalGeneration", T5)
    tuned = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(1.0)
    tuned.save_pretrained(tmp_path / "tuned")
    recipe = Recipe.compose(base.path, {"tuned": tmp_path / "tuned"}, {"tuned": 0.5})
    verify(export(recipe, *open_recipe(recipe), tmp_path / "out"))
    module = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    for name, value in module.state_dict().items():
        wanted = tuned.state_dict()[name] - 0.5
        assert torch.allclose(value, wanted, atol=1e-6), name
