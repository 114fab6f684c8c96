"""Tiny models with one hard trait each, and a tokenizer for them."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)

VOCAB = 331  # a prime above the 256 bytes and the special tokens
SIZES = {
    "vocab_size": VOCAB,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 127,
}
LLAMA = SIZES | {
    "hidden_size": 44,
    "intermediate_size": 53,
    "num_key_value_heads": 2,
    "head_dim": 12,
}
EXPERTS = {
    "moe_intermediate_size": 37,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
}
ONE = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA | {"tie_word_embeddings": False},
    "llama-tied": LLAMA | {"tie_word_embeddings": True},
    "gpt2": {
        "vocab_size": VOCAB,
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 44,
        "n_inner": 53,
        "n_positions": 127,
    },
    "gpt_neox": SIZES | {"hidden_size": 44, "intermediate_size": 53},
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "phi": SIZES | {"hidden_size": 48, "intermediate_size": 53},
    "mixtral": LLAMA | {"num_local_experts": 3},
    "qwen3_moe": LLAMA | EXPERTS,
}


def _build(family: str, seed: int = 0, **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    kind = family.partition("-")[0]
    config = AutoConfig.for_model(kind, **(FAMILIES[family] | ONE | changes))
    model = AutoModelForCausalLM.from_config(config)
    with (
        torch.no_grad()
    ):  # norms and biases start as ones and zeros, in which a wrong place would not show
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """build(family, seed=0, **changes): a tiny random model of a family, float32, in evaluation mode."""
    return _build


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Save a tiny model of a family into a fresh folder."""

    def save(
        family: str, *, dtype: torch.dtype = torch.float32, name: str = "model", **options: Any
    ) -> Path:
        folder = tmp_path / name
        _build(family).to(dtype).save_pretrained(folder, **options)
        return folder

    return save


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level BPE, no chat template: 3 special tokens, 256 bytes, 72 merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    words = [
        "the sum of 12 and 7 is 19",
        "the answer of the question is yes",
        "what is the colour of the sky",
    ] * 3
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=127,
    )
