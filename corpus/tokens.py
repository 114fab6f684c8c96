"""Encodes records as token ids, masks the prompt, and counts records over the length limit."""

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
        ids: token ids of prompt and completion, then the tokenizer's end token. For a chat, the
            token ids of the text that its template writes.
        supervised: per token, whether the loss counts it: the completion and the end token, or the
            assistant's turns; never the prompt.
        index: the record's number, from 0, among those that encode_all was given; -1 from encode.
            It does not count in comparisons.
    """

    ids: list[int]
    supervised: list[bool]
    index: int = field(default=-1, compare=False)


class Dropped(NamedTuple):
    """How many records of a dataset were left out; nothing is skipped in silence.

    Attributes:
        too_long: records with more tokens than the limit.
        total: all records, with those that were left out.
    """

    too_long: int
    total: int


def encode(record: Record, tokenizer: Tokenizer, max_length: int | None = None) -> Encoded | None:
    """Encodes one record; returns None if it has more than `max_length` tokens.

    A text is never cut: half a completion would teach, or measure, something else. Prompt and
    completion are tokenised separately, the prompt with the special tokens that the tokenizer adds
    by itself, as when a model is prompted. A chat is written by the tokenizer's template; see
    corpus.chat_tokens.

    With one token per character, Example("2+2=", "4") gives supervised = [False] * 4 + [True] * 2:
    the prompt's four tokens, then the 4 and the end token.

    Args:
        record: what to encode.
        tokenizer: the base's tokenizer.
        max_length: the length limit in tokens; None for no limit.

    Raises:
        CorpusError: the tokenizer's template cannot write the chat, or does not show which tokens
            are the assistant's.
    """
    if isinstance(record, Chat):
        tokens = chat_tokens(record, tokenizer, max_length)
        return None if tokens is None else Encoded(*tokens)
    prompt = list(tokenizer(record.prompt)["input_ids"])
    # A begin token belongs before the prompt only, so the completion gets no special tokens here.
    completion = list(tokenizer(record.completion, add_special_tokens=False)["input_ids"])
    # The end token is supervised too: otherwise the model would not learn to stop.
    end = getattr(tokenizer, "eos_token_id", None)
    if end is not None:
        completion.append(end)
    # Compared after the end token was added, because it takes a position as well.
    if max_length is not None and len(prompt) + len(completion) > max_length:
        return None
    return Encoded(prompt + completion, [False] * len(prompt) + [True] * len(completion))


def encode_all(
    records: Iterable[Record], tokenizer: Tokenizer, max_length: int | None = None
) -> tuple[list[Encoded], Dropped]:
    """Encodes all records; returns those within the length limit, and how many are not.

    The result is in the records' order, and `index` is each record's number.

    Raises:
        CorpusError: as encode; names the record by its number, from 0.
    """
    kept, total = [], 0
    for number, record in enumerate(records):
        total += 1
        try:
            encoded = encode(record, tokenizer, max_length)
        except CorpusError as error:
            raise CorpusError(f"record {number}: {error}") from None
        if encoded is not None:
            kept.append(replace(encoded, index=number))
    return kept, Dropped(too_long=total - len(kept), total=total)
