"""Writes the tokenizer of a GGUF file as the file has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workbench.gguf.header import NAME, field

SPLIT_AS_GPT2 = ("default", "gpt-2", "gpt2")
"""Values of tokenizer.ggml.pre for which transformers' splitting of text, GPT-2's, is right."""


def save_tokenizer(content: Any, folder: str, out: Path, notes: list[str]) -> None:
    """Writes the tokenizer of the file, if it has one."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    if content.get_field("tokenizer.ggml.model") is None:
        notes.append("The file has no tokenizer; copy that of the original model.")
        return
    tokenizer = AutoTokenizer.from_pretrained(
        folder, gguf_file=NAME, trust_remote_code=False, local_files_only=True
    )
    tokens = field(content, "tokenizer.ggml.tokens")
    if len(tokenizer) > len(tokens):
        tokenizer = _with_its_own_tokens(tokenizer, len(tokens))
    split = field(content, "tokenizer.ggml.pre")
    if split == "smollm":
        # As GPT-2, but every digit is a piece of its own (llama.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM).
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif split is not None and split not in (*SPLIT_AS_GPT2, *_known_splits()):
        notes.append(
            f"The file's way of splitting text, {split!r}, is not known to transformers, which "
            "does it as GPT-2 does. Compare tokens with those of the original tokenizer."
        )
    tokenizer.save_pretrained(out)


def _with_its_own_tokens(tokenizer: Any, count: int) -> Any:
    """Returns a tokenizer without the tokens that a class of transformers has added by default.

    A file that names no begin token gets one such as <|endoftext|>, for which the model has no
    embedding.

    Args:
        tokenizer: the tokenizer that transformers made of a file.
        count: number of tokens of the file.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["added_tokens"] = [each for each in content["added_tokens"] if each["id"] < count]
    own = {
        name: token
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str) and tokenizer.convert_tokens_to_ids(token) < count
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        chat_template=tokenizer.chat_template,
        **own,
    )


def _known_splits() -> tuple[str, ...]:
    """Returns the values of tokenizer.ggml.pre that transformers knows."""
    try:
        from transformers.integrations.gguf import gguf_tokenizer_mapping
    # It is no public part, and not in all versions; without it every other value is told.
    except ImportError:
        return ()
    return tuple(getattr(gguf_tokenizer_mapping, "GGUF_PRE_TOKENIZER_SPLITS", ()))
