"""Examples to tokens, with the prompt masked and length limits counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from corpus.sources import Example

Tokenizer = Callable[..., Any]
"""A transformers tokenizer, or anything that is called and answers like one."""


@dataclass(frozen=True)
class Encoded:
    """The tokens of one example.

    Attributes:
        ids: tokens of prompt and completion, then the tokenizer's end token.
        supervised: True where the loss counts: the completion and the end token, never the prompt.
    """

    ids: list[int]
    supervised: list[bool]


class Dropped(NamedTuple):
    """Why examples of a dataset were left out; nothing is skipped in silence."""

    too_long: int
    total: int


def encode(example: Example, tokenizer: Tokenizer, max_length: int | None = None) -> Encoded | None:
    """Tokens of one example, or None when there are more than max_length of them.

    A text is never cut: half a completion would teach, or measure, something else. Prompt and completion are tokenised
    apart, the prompt with whatever special tokens the tokenizer adds by itself, as it does when a model is prompted.

    >>> encode(Example("2 + 2 =", " 4"), tokenizer).supervised    # 2, space, +, space, 2, space, = | space, 4, end
    """
    prompt = list(tokenizer(example.prompt)["input_ids"])
    completion = list(tokenizer(example.completion, add_special_tokens=False)["input_ids"])
    end = getattr(tokenizer, "eos_token_id", None)
    if end is not None:
        completion.append(end)
    if max_length is not None and len(prompt) + len(completion) > max_length:
        return None
    return Encoded(prompt + completion, [False] * len(prompt) + [True] * len(completion))


def encode_all(
    examples: Iterable[Example], tokenizer: Tokenizer, max_length: int | None = None
) -> tuple[list[Encoded], Dropped]:
    """Tokens of all examples that fit, in order, and how many did not."""
    encoded = [encode(example, tokenizer, max_length) for example in examples]
    kept = [item for item in encoded if item is not None]
    return kept, Dropped(too_long=len(encoded) - len(kept), total=len(encoded))
