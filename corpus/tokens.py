"""Encodes records as token ids, masks the prompt, and counts records over the length limit."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corpus.chat_template import Tokenizer
from corpus.chat_tokens import answers, chat_of, chat_tokens, check_template
from corpus.errors import CorpusError, raise_all
from corpus.records import Chat, Example, Record, place

__all__ = [
    "Dropped",
    "Encoded",
    "Known",
    "Tokenizer",
    "check_template",
    "encode",
    "encode_all",
    "split_chats",
]


@dataclass(frozen=True, eq=False)
class Encoded:
    """The tokens of one record.

    Attributes:
        ids: token ids of prompt and completion, then the tokenizer's end token. For a chat, the
            token ids of the text that its template writes. 4 bytes for each, where a list of
            Python's numbers would take 36.
        supervised: per token, whether the loss counts it: the completion and the end token, or the
            assistant's turns; never the prompt.
        index: the record's number, from 0, among those that encode_all was given; -1 from encode.
            It does not count in comparisons, nor do the next three.
        stops: whether the model learns to stop: the last supervised token is more than text.
        part: whether it is one answer of a longer chat; see corpus.chat_tokens.
        cut: whether it was cut off at the length limit.
    """

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    index: int = -1
    stops: bool = True
    part: bool = False
    cut: bool = False

    @classmethod
    def of(cls, ids: list[int], supervised: list[bool], **more: bool) -> Encoded:
        """Returns the tokens in two lists of equal length."""
        return cls(np.array(ids, np.int32), np.array(supervised, np.bool_), **more)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Encoded)
            and np.array_equal(self.ids, other.ids)
            and np.array_equal(self.supervised, other.supervised)
        )

    @property
    def learned(self) -> int:
        """Number of supervised tokens."""
        return int(np.count_nonzero(self.supervised))


class Dropped(NamedTuple):
    """How many examples of a dataset were left out; nothing is skipped in silence.

    Attributes:
        too_long: examples with more tokens than the limit.
        total: all examples, with those that were left out. There are as many as records, and more
            if chats became one example for each answer.
    """

    too_long: int
    total: int


Known = MutableMapping[Record, tuple[Encoded, ...]]
"""Record -> its examples, for one tokenizer: one, or one for each answer of a chat."""


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
        CorpusError: the tokenizer's template cannot write the chat, does not show which tokens are
            the assistant's, or needs several examples for it, which only encode_all returns.
    """
    examples = _examples(record, tokenizer)
    if len(examples) > 1:
        raise CorpusError(
            f"the chat becomes {len(examples)} examples, one for each answer, because the chat "
            "template writes an answer in another way once the chat goes on. Use encode_all."
        )
    return examples[0] if max_length is None or len(examples[0].ids) <= max_length else None


def _examples(record: Record, tokenizer: Tokenizer) -> tuple[Encoded, ...]:
    """Returns the examples of a record, whatever their length; see `encode`."""
    if (chat := chat_of(record, tokenizer)) is not None:
        found = chat_tokens(chat, tokenizer)
        several = len(found) > 1 or chat.part
        return tuple(
            Encoded.of(part.ids, part.supervised, stops=part.stops, part=several) for part in found
        )
    assert isinstance(record, Example)
    prompt = list(tokenizer(record.prompt)["input_ids"])
    # A begin token belongs before the prompt only, so the completion gets no special tokens here.
    completion = list(tokenizer(record.completion, add_special_tokens=False)["input_ids"])
    # The end token is supervised too: otherwise the model would not learn to stop.
    end = getattr(tokenizer, "eos_token_id", None)
    # Some tokenizers end every text with it. Between prompt and completion it would end the text.
    if prompt and prompt[-1] == end:
        alone = tokenizer(record.prompt, add_special_tokens=False)["input_ids"]
        prompt = prompt if alone and alone[-1] == end else prompt[:-1]
    if end is not None:
        completion.append(end)
    supervised = [False] * len(prompt) + [True] * len(completion)
    return (Encoded.of(prompt + completion, supervised, stops=end is not None),)


def encode_all(
    records: Iterable[Record],
    tokenizer: Tokenizer,
    max_length: int | None = None,
    known: Known | None = None,
    *,
    cut: bool = False,
) -> tuple[list[Encoded], Dropped]:
    """Encodes all records; returns the examples within the length limit, and how many are not.

    The result is in the records' order, and `index` is each record's number.

    Args:
        records: what to encode.
        tokenizer: the base's tokenizer.
        max_length: the length limit in tokens; None for no limit.
        known: records that need not be encoded again; the others are added.
        cut: whether longer examples are cut off at the limit. Those of which no supervised token
            remains are left out.

    Raises:
        CorpusError: as encode; names the first ten records by their lines, and counts the others.
    """
    known = {} if known is None else known
    kept: list[Encoded] = []
    faults: list[str] = []
    number, total = -1, 0
    for number, record in enumerate(records):
        if record not in known:
            try:
                known[record] = _examples(record, tokenizer)
            except CorpusError as error:
                faults.append(f"{place(record, number)}: {error}")
                continue
        total += len(known[record])
        within = (_within(example, max_length, cut) for example in known[record])
        kept += [replace(example, index=number) for example in within if example is not None]
    raise_all(faults, number + 1)
    return kept, Dropped(too_long=total - len(kept), total=total)


def _within(example: Encoded, limit: int | None, cut: bool) -> Encoded | None:
    """Returns an example within the length limit; None if it is left out."""
    if limit is None or len(example.ids) <= limit:
        return example
    if not cut or not example.supervised[1:limit].any():
        return None
    return replace(
        example, ids=example.ids[:limit], supervised=example.supervised[:limit], cut=True
    )


def split_chats(records: Iterable[Record], tokenizer: Tokenizer, known: Known) -> list[Record]:
    """Returns the records, with each chat that becomes several examples replaced by its answers.

    So each record is one example, which can be counted, drawn and grouped. Chats that cannot be
    encoded are kept; encode_all refuses them.

    Args:
        records: any records.
        tokenizer: the base's tokenizer.
        known: as in encode_all.
    """
    split: list[Record] = []
    for record in records:
        if isinstance(record, Chat) and record not in known:
            with suppress(CorpusError):
                known[record] = _examples(record, tokenizer)
        examples = known.get(record, ())
        if isinstance(record, Chat) and len(examples) > 1:
            parts = answers(record)
            known.update(zip(parts, ((example,) for example in examples), strict=True))
            split += parts
        else:
            split.append(record)
    return split
