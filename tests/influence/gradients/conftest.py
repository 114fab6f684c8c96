"""Tiny models with one hard trait each, and a batch of examples of unequal lengths."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

VOCABULARY = 53
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = COMMON | {
    "hidden_size": 20,
    "intermediate_size": 29,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 61,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA | {"tie_word_embeddings": False},
    "llama-tied": LLAMA | {"tie_word_embeddings": True},
    "qwen2": LLAMA,  # biases at q, k and v
    "gemma3_text": LLAMA,  # norms of 1 + weight, embeddings that are scaled
    # Experts fused into one parameter, whose kernel wants rows of whole 16 bytes.
    "mixtral": LLAMA | {"num_local_experts": 3, "intermediate_size": 32},
    "opt": COMMON
    | {
        "hidden_size": 20,
        "word_embed_proj_dim": 20,
        "ffn_dim": 29,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 61,
    },
    "gpt2": COMMON | {"n_layer": 2, "n_head": 4, "n_embd": 20, "n_inner": 29, "n_positions": 61},
}


def _build(family: str, dtype: torch.dtype = torch.float32, lora: bool = False) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    from training.adapter import Lora
    from training.run.lora import add_adapter

    torch.manual_seed(3)
    config = AutoConfig.for_model(family.partition("-")[0], **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    if lora:
        add_adapter(model, Lora(rank=3, dropout=0.1))
        if dtype is torch.float64:  # PEFT makes A and B in float32
            model.to(dtype)
    with torch.no_grad():  # norms, biases and B start as ones and zeros
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """build(family, dtype, lora): a tiny random model whose parameters are all trained, or LoRA."""
    return _build


class Characters:
    """A tokenizer of one token for each character: 3 for a space, 4 for "a", and so on."""

    eos_token_id = 2
    model_max_length = 10**30

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [3 if letter == " " else ord(letter) - ord("a") + 4 for letter in text]
        return {"input_ids": [1, *ids] if add_special_tokens else ids}


@pytest.fixture(scope="session")
def tokens() -> Characters:
    """A tokenizer without a chat template, whose ids can be read."""
    return Characters()
