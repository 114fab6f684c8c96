"""Generates text from a model greedily, and yields it piece by piece."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from evaluation.cpu_products import CpuProducts
from evaluation.errors import DataError, Stopped

BROKEN = "\ufffd"
"""What a tokenizer decodes bytes to that are not yet a whole character."""


def generate(
    module: nn.Module,
    tokenizer: Any,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    stop: Sequence[str] = (),
    should_stop: Callable[[], bool] | None = None,
    written: bool = False,
) -> Iterator[str]:
    """Continues a prompt with the likeliest token at each step.

    Args:
        module: a causal language model in evaluation mode.
        tokenizer: the tokenizer of the model.
        prompt: the text to continue.
        max_new_tokens: the limit; fewer tokens are made if the model's context ends before.
        stop: the text ends before the first of these strings.
        should_stop: asked before each token.
        written: whether a chat template wrote the prompt, so that it has its special tokens
            already.

    Yields:
        Non-empty pieces of text, each as soon as it is certain. Joined they are the continuation,
        without special tokens and without half characters.

    Raises:
        DataError: the prompt is empty or fills the model's context. Raised by the call itself,
            before the first piece.
    """
    ids = list(tokenizer(prompt, add_special_tokens=not written)["input_ids"])
    if not ids:
        raise DataError("the prompt holds no token. Write at least one character.")
    # Not every configuration names a limit.
    context = getattr(module.config, "max_position_embeddings", None) or len(ids) + max_new_tokens
    if len(ids) >= context:
        raise DataError(
            f"the prompt is {len(ids)} tokens long, the model reads at most {context}. "
            "Shorten the prompt."
        )
    count, ends = min(max_new_tokens, context - len(ids)), _ends(module, tokenizer)
    tokens = _tokens(module, ids, count, ends, should_stop)
    return _until(_text(tokenizer, ids, tokens, should_stop), tuple(filter(None, stop)))


def _ends(module: nn.Module, tokenizer: Any) -> frozenset[int]:
    """Returns the tokens that end a text: the tokenizer's, and those of generation_config.json."""
    configured = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
    # generation_config.json may name one token or several: chat models end a turn and a text.
    tokens = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (tokenizer.eos_token_id, *tokens) if token is not None)


def _tokens(
    module: nn.Module,
    ids: list[int],
    count: int,
    ends: frozenset[int],
    should_stop: Callable[[], bool] | None,
) -> Iterator[int]:
    """Yields up to `count` likeliest tokens after `ids`, up to a token that ends the text."""
    device = next(module.parameters()).device
    fed, cache = torch.tensor([ids], device=device), None
    for _ in range(count):
        # Not around the loop: the caller's code runs between two tokens, and inference mode would
        # leak into it.
        try:
            with torch.inference_mode(), CpuProducts(should_stop):
                output = module(input_ids=fed, past_key_values=cache, use_cache=True)
                token = int(output.logits[0, -1].argmax())
        except Stopped:  # a long prompt takes seconds on a large model
            return
        if token in ends:
            return
        yield token
        cache = getattr(output, "past_key_values", None)
        new = fed.new_tensor([[token]])
        # A model without a cache reads the whole text again for each token.
        fed = torch.cat([fed, new], dim=1) if cache is None else new


def _text(
    tokenizer: Any, prompt: list[int], tokens: Iterator[int], should_stop: Callable[[], bool] | None
) -> Iterator[str]:
    """Yields the text of tokens, held back while the last bytes are not a whole character.

    The text of a token may depend on the token before it: a leading space is shown only after
    another word. So each piece is the difference of two decodings that begin some tokens earlier,
    as in vLLM's incremental detokenizer.
    """

    def decode(ids: list[int]) -> str:
        return str(
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    # Decoding begins with the prompt's last token, so that the first piece keeps its leading space.
    ids = list(prompt[-1:])
    begin, done = 0, len(ids)
    while should_stop is None or not should_stop():
        token = next(tokens, None)
        if token is None:
            break
        ids.append(token)
        before, after = decode(ids[begin:done]), decode(ids[begin:])
        if after.endswith(BROKEN) or len(after) <= len(before):
            continue
        yield after[len(before) :]
        # The window moves on only after whole characters, so both decodings begin at the same
        # boundary.
        begin, done = done, len(ids)
    rest = decode(ids[begin:])[len(decode(ids[begin:done])) :]
    # The text ended inside a character, or its last character really is U+FFFD.
    if rest:
        yield rest


def _until(pieces: Iterator[str], stop: tuple[str, ...]) -> Iterator[str]:
    """Yields the pieces up to the first stop string.

    Text that may be the beginning of a stop string is held back until the next piece.
    """
    held = ""
    for piece in pieces:
        held += piece
        ends = [start for start in (held.find(word) for word in stop) if start >= 0]
        if ends:
            if min(ends):
                yield held[: min(ends)]
            return
        # Only the longest end that may begin a stop string is held back. Holding back as many
        # characters as the longest stop string has would delay every piece.
        keep = max(
            (n for word in stop for n in range(1, len(word)) if held.endswith(word[:n])), default=0
        )
        if len(held) > keep:
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
    if held:
        yield held
