"""Makes an untrained tiny Llama with its tokenizer, as a folder that a Stage can start from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from training.run.setup import quiet

PAD, BEGIN, END = "<pad>", "<s>", "</s>"
CONTEXT = 256
"""The most tokens that the model reads."""


def write_blank(
    folder: Path, texts: Iterable[str], *, seed: int = 0, vocabulary: int = 1024, hidden: int = 192
) -> Path:
    """Trains a tokenizer on texts, draws random weights, and writes both to a folder.

    The tokenizer is a byte-level BPE with single digits. It never puts a token before a text, so
    lm-eval, the page and training see the same tokens without an option.

    Args:
        folder: where the model is written.
        texts: the tokenizer is trained on.
        seed: of the random weights.
        vocabulary: number of tokens.
        hidden: width of the model, a multiple of 32.

    Returns:
        `folder`.
    """
    import torch
    from transformers import (
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_bpe(texts, vocabulary),
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
    )
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=4,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        # About 1/sqrt(hidden). After 450 steps the base had begun to copy words with it, and had
        # not with the usual 0.02.
        initializer_range=0.08,
        dtype=torch.float32,
        **special,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, **special)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def _bpe(texts: Iterable[str], vocabulary: int) -> object:
    """Returns a byte-level BPE trained on texts; with all 256 bytes it can encode any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe
