"""Generates text from a model greedily: one text piece by piece, or many texts in batches."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from evaluation.cpu_products import CpuProducts
from evaluation.errors import DataError, Stopped

BROKEN = "\ufffd"
"""What a tokenizer decodes bytes to that are not yet a whole character."""

BUDGET = 10_000
"""The most tokens that a batch keeps in its cache; 0.5 GB for a model of 135 million parameters.

More rows than that are hardly faster on a CPU: the arithmetic takes longer than reading weights.
"""


class _Prompt(NamedTuple):
    """The tokens of a prompt, and the most tokens that may follow."""

    ids: list[int]
    most: int


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
    ids, count = _read(module, tokenizer, prompt, max_new_tokens, written)
    tokens = _tokens(module, ids, count, _ends(module, tokenizer), should_stop)
    return _until(_text(tokenizer, ids, tokens, should_stop), tuple(filter(None, stop)))


def generate_many(
    module: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    stop: Sequence[str] = (),
    written: bool = False,
    budget: int = BUDGET,
) -> list[str]:
    """Continues many prompts, each as `generate` does, in batches of similar lengths.

    In float32 the texts are those of `generate`. The products of a batch may add in another order,
    so a token can differ where two are equally likely up to that rounding.

    Args:
        module: a causal language model in evaluation mode.
        tokenizer: the tokenizer of the model; it needs no token to pad with.
        prompts: the texts to continue.
        max_new_tokens: the limit for each; fewer if the model's context ends before.
        stop: each text ends before the first of these strings.
        written: whether a chat template wrote the prompts; see `generate`.
        budget: the most tokens that a batch keeps in its cache. A prompt that needs more than
            that is a batch of its own.

    Returns:
        The continuation of each prompt, in the order of the prompts.

    Raises:
        DataError: a prompt is empty or fills the model's context. Raised before any is continued.
    """
    asked = [_read(module, tokenizer, prompt, max_new_tokens, written) for prompt in prompts]
    ends, words = _ends(module, tokenizer), tuple(filter(None, stop))
    texts = [""] * len(asked)

    def over(tokens: list[int]) -> bool:
        return any(word in _decoded(tokenizer, tokens) for word in words)

    for numbers in _batches(asked, budget):
        made = _batch_tokens(module, [asked[number] for number in numbers], ends, over)
        for number, tokens in zip(numbers, made, strict=True):
            pieces = _text(tokenizer, asked[number].ids, iter(tokens), None)
            texts[number] = "".join(_until(pieces, words))
    return texts


def _read(
    module: nn.Module, tokenizer: Any, prompt: str, max_new_tokens: int, written: bool
) -> _Prompt:
    """Returns the tokens of a prompt and how many may follow; see `generate`."""
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
    return _Prompt(ids, min(max_new_tokens, context - len(ids)))


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


def _batches(asked: Sequence[_Prompt], budget: int) -> Iterator[list[int]]:
    """Yields the numbers of the prompts of each batch, the longest prompts first."""
    batch: list[int] = []
    for number in sorted(range(len(asked)), key=lambda number: -len(asked[number].ids)):
        if asked[number].most < 1:
            continue
        # All are padded to the first; the last, the shortest, may be followed by the most.
        width = len(asked[(batch or [number])[0]].ids) + asked[number].most
        if batch and width * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _batch_tokens(
    module: nn.Module,
    rows: Sequence[_Prompt],
    ends: frozenset[int],
    over: Callable[[list[int]], bool],
) -> list[list[int]]:
    """Returns the likeliest tokens after each prompt; a row that has ended leaves the batch.

    Args:
        over: whether a text of these tokens has ended.
    """
    device, width = next(module.parameters()).device, max(len(row.ids) for row in rows)
    # Padded on the left, because what follows has to be at the same place in all rows. No row sees
    # its padding, so any token will do.
    padded = [[-1] * (width - len(row.ids)) + row.ids for row in rows]
    fed = torch.tensor(padded, device=device)
    fed, mask = fed.clamp(min=0), (fed >= 0).long()
    # Some models find positions from the mask; a few return the logits of the whole prompt.
    takes = inspect.signature(module.forward).parameters
    made: list[list[int]] = [[] for _ in rows]
    running = list(range(len(rows)))
    cache: Any = None
    with torch.inference_mode(), CpuProducts():
        while running:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -fed.shape[1] :]
            more = {"position_ids": positions, "logits_to_keep": 1}
            more = {name: value for name, value in more.items() if name in takes}
            output = module(
                input_ids=fed, attention_mask=mask, past_key_values=cache, use_cache=True, **more
            )
            cache = getattr(output, "past_key_values", None)
            if not _selects_rows(cache):
                return [list(_tokens(module, row.ids, row.most, ends, None)) for row in rows]
            tokens = output.logits[:, -1].argmax(-1).tolist()
            stay = []
            for place, (row, token) in enumerate(zip(running, tokens, strict=True)):
                if token in ends:
                    continue
                made[row].append(token)
                if len(made[row]) < rows[row].most and not over(made[row]):
                    stay.append(place)
            if stay and len(stay) < len(running):
                chosen = torch.tensor(stay, device=device)
                cache.batch_select_indices(chosen)
                mask = mask[chosen]
            running = [running[place] for place in stay]
            fed = fed.new_tensor([[tokens[place]] for place in stay])
            mask = nn.functional.pad(mask, (0, 1), value=1)
    return made


def _selects_rows(cache: Any) -> bool:
    """Whether rows of a cache can be taken out, and padding in it can be hidden by a mask.

    A recurrent layer keeps a state instead of the tokens, and some models keep nothing.
    """
    return bool(getattr(cache, "layers", ())) and all(
        hasattr(layer, "batch_select_indices") and not hasattr(layer, "conv_states")
        for layer in cache.layers
    )


def _text(
    tokenizer: Any, prompt: list[int], tokens: Iterator[int], should_stop: Callable[[], bool] | None
) -> Iterator[str]:
    """Yields the text of tokens, held back while the last bytes are not a whole character.

    The text of a token may depend on the token before it: a leading space is shown only after
    another word. So each piece is the difference of two decodings that begin some tokens earlier,
    as in vLLM's incremental detokenizer.
    """
    decode = partial(_decoded, tokenizer)
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


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


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
