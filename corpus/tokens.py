"""Records to tokens, with the prompt masked and length limits counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from corpus.chat_tokens import Tokenizer, chat_tokens, check_template
from corpus.errors import CorpusError
from corpus.records import Chat, Record

__all__ = ["Dropped", "Encoded", "Tokenizer", "check_template", "encode", "encode_all"]


@dataclass(frozen=True)
class Encoded:
    """The tokens of one record.

    Attributes:
        ids: tokens of prompt and completion, then the tokenizer's end token; of a chat, what its template writes.
        supervised: True where the loss counts: the completion and the end token, or the assistant's turns; never the prompt.
        index: the record's number, from 0, among those that encode_all was given; -1 from encode. Not compared.
    """

    ids: list[int]
    supervised: list[bool]
    index: int = field(default=-1, compare=False)


class Dropped(NamedTuple):
    """Why examples of a dataset were left out; nothing is skipped in silence."""

    too_long: int
    total: int


def encode(record: Record, tokenizer: Tokenizer, max_length: int | None = None) -> Encoded | None:
    """Tokens of one record, or None when there are more than max_length of them.

    A text is never cut: half a completion would teach, or measure, something else. Prompt and completion are tokenised
    apart, the prompt with whatever special tokens the tokenizer adds by itself, as it does when a model is prompted. A
    chat is written by the tokenizer's template; see corpus.chat_tokens.

    >>> encode(Example("2 + 2 =", " 4"), tokenizer).supervised    # 2, space, +, space, 2, space, = | space, 4, end

    Raises:
        CorpusError: a chat that the tokenizer's template cannot write or in which it does not show the assistant's tokens.
    """
    if isinstance(record, Chat):
        made = chat_tokens(record, tokenizer, max_length)
        return None if made is None else Encoded(*made)
    prompt = list(tokenizer(record.prompt)["input_ids"])
    completion = list(tokenizer(record.completion, add_special_tokens=False)["input_ids"])
    end = getattr(tokenizer, "eos_token_id", None)
    if end is not None:
        completion.append(end)
    if max_length is not None and len(prompt) + len(completion) > max_length:
        return None
    return Encoded(prompt + completion, [False] * len(prompt) + [True] * len(completion))


def encode_all(
    records: Iterable[Record], tokenizer: Tokenizer, max_length: int | None = None
) -> tuple[list[Encoded], Dropped]:
    """Tokens of all records that fit, in order, each with its record's number as `index`, and how many did not fit.

    Raises:
        CorpusError: as encode; names the record by its number, from 0.
    """
    kept, total = [], 0
    for number, record in enumerate(records):
        total += 1
        try:
            made = encode(record, tokenizer, max_length)
        except CorpusError as error:
            raise CorpusError(f"record {number}: {error}") from None
        if made is not None:
            kept.append(replace(made, index=number))
    return kept, Dropped(too_long=total - len(kept), total=total)
