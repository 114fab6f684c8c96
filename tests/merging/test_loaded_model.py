"""The model of a configuration, with transformers' own loader as the oracle."""

import pytest
import torch
import transformers
from transformers import BertConfig, GPT2Config, PreTrainedConfig

from merging.loaded_model import model_classes, parameters_of

V = "parametrizations.weight.original1"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (GPT2Config(), "GPT2LMHeadModel"),
        (GPT2Config(architectures=["GPT2ForTokenClassification"]), "GPT2ForTokenClassification"),
        # A name of the library that is no model, and one of nobody's, are passed over.
        (GPT2Config(architectures=["AutoConfig", "NoSuchModel", 3]), "GPT2LMHeadModel"),
        (BertConfig(architectures=["BertForMaskedLM"]), "BertForMaskedLM"),
    ],
)
def test_the_class_that_the_configuration_names_comes_first(config, name):
    assert model_classes(config)[0].__name__ == name


def test_names_of_files_lead_to_the_parameters_that_loading_fills():
    small = GPT2Config(vocab_size=31, n_layer=1, n_head=2, n_embd=14, n_positions=17)
    model = transformers.GPT2LMHeadModel(small)
    # A folder that was saved without the head has no prefix.
    found = parameters_of(model, ["wte.weight", "transformer.h.0.attn.c_attn.weight"])
    assert found == {
        "wte.weight": ("transformer.wte.weight", True),
        "transformer.h.0.attn.c_attn.weight": ("transformer.h.0.attn.c_attn.weight", True),
    }


def test_a_parameter_that_is_really_called_like_an_old_one():
    """transformers renames weight_g on loading, unless the model itself has a weight_g."""

    class Odd(transformers.PreTrainedModel):
        config_class = PreTrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.part = torch.nn.Module()
            self.part.weight_g = torch.nn.Parameter(torch.ones(3, 2))

    odd = Odd(PreTrainedConfig())
    assert parameters_of(odd, ["part.weight_g"]) == {"part.weight_g": ("part.weight_g", True)}
    assert parameters_of(odd, ["a.weight_v"]) == {"a.weight_v": (f"a.{V}", True)}
