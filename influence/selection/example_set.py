"""Named examples with their tokens: the pool to choose from, and the validation examples.

Both are an ExampleSet. The sources of the pool are its datasets; the sources of the validation
examples are its subtasks (LESS, arXiv 2402.04333, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corpus.chat_tokens import check_template
from corpus.errors import CorpusError
from corpus.reach import ANYWHERE, Reach
from corpus.records import Record, place, record_text
from corpus.selection import SUFFIX
from corpus.source import Source, load_source
from corpus.tokens import Encoded, encode_all
from evaluation.prepared import UNLIMITED
from influence.errors import InfluenceError
from plumbing.units import counted


class Candidate(NamedTuple):
    """One record with its tokens."""

    source: str
    """Name of its source; for a validation example, of its subtask."""
    number: int
    """Its number among the records of its source, from 0; as in corpus.selection.Chosen."""
    record: Record
    encoded: tuple[Encoded, ...]
    """Its examples: one, or one for each answer of a chat; see corpus.chat_tokens."""

    @property
    def name(self) -> str:
        """How messages name it: "math, line 17"."""
        return f"{self.source}, {place(self.record, self.number)}"

    @property
    def text(self) -> str:
        """Prompt and completion, or the messages of a chat."""
        return record_text(self.record)

    @property
    def tokens(self) -> int:
        """Number of its tokens, prompt and template included."""
        return sum(len(part.ids) for part in self.encoded)

    @property
    def supervised(self) -> int:
        """Number of its tokens that the loss counts."""
        return sum(part.learned for part in self.encoded)


@dataclass(frozen=True)
class ExampleSet:
    """Examples of named sources, source by source."""

    examples: tuple[Candidate, ...]
    left_out: Mapping[str, int]
    """Source -> how many of its records are longer than the limit and are not in `examples`."""

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def names(self) -> tuple[str, ...]:
        """How messages name each example."""
        return tuple(each.name for each in self.examples)

    @property
    def texts(self) -> list[str]:
        """The text of each example."""
        return [each.text for each in self.examples]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in their order."""
        return tuple(self.left_out)

    @property
    def records(self) -> dict[str, list[Record]]:
        """Source -> the records of its examples, in their order."""
        found: dict[str, list[Record]] = {name: [] for name in self.sources}
        for each in self.examples:
            found[each.source].append(each.record)
        return found

    def rows(self, source: str) -> NDArray[np.int64]:
        """Returns the indices in `examples` of the examples of one source."""
        return np.flatnonzero([each.source == source for each in self.examples])


def load_examples(
    sources: Mapping[str, Source],
    tokenizer: Any,
    *,
    max_length: int | None = None,
    cache: Path | None = None,
    reach: Reach = ANYWHERE,
) -> ExampleSet:
    """Loads and encodes the records of sources.

    Their numbers are those that corpus.selection.write_selection expects for the same sources.

    Args:
        sources: name -> source. A selection is refused, because no selection can be made of it.
        tokenizer: of the model that scores the examples or is trained on them.
        max_length: as in encode_examples.
        cache: as in corpus.source.load_source.
        reach: as in corpus.source.load_source.

    Raises:
        InfluenceError: a source is a selection, or as encode_examples.
        CorpusError: as corpus.source.load_source, or as encode_examples.
    """
    for name, source in sources.items():
        if source.path.endswith(SUFFIX):
            raise InfluenceError(
                f"source {name}: {source.path} is a selection. Choose from its own sources."
            )
    records = {name: load_source(source, cache, reach=reach) for name, source in sources.items()}
    return encode_examples(records, tokenizer, max_length=max_length)


def encode_examples(
    records: Mapping[str, Sequence[Record]], tokenizer: Any, *, max_length: int | None = None
) -> ExampleSet:
    """Encodes the records of named sources, or the validation examples of named subtasks.

    Args:
        records: name of a source or subtask -> its records.
        tokenizer: of the model that scores the examples or is trained on them.
        max_length: the most tokens of an example. Longer records are left out and counted, never
            cut: a cut can remove every supervised token. By default it is the tokenizer's limit.

    Raises:
        InfluenceError: there are no sources; a source has no records, or none within the limit; or
            a record has no token for the model to learn. It is named.
        CorpusError: the tokenizer's template cannot write a chat.
    """
    if not records:
        raise InfluenceError("there are no examples. Give at least one source with one record.")
    if max_length is None and tokenizer.model_max_length < UNLIMITED:
        max_length = tokenizer.model_max_length
    examples: list[Candidate] = []
    left_out = {}
    for source, own in records.items():
        kept = _encode_source(source, own, tokenizer, max_length)
        examples += kept
        left_out[source] = len(own) - len(kept)
    return ExampleSet(tuple(examples), left_out)


def _encode_source(
    source: str, records: Sequence[Record], tokenizer: Any, max_length: int | None
) -> list[Candidate]:
    if not records:
        raise InfluenceError(f"{source} has no examples. Give it at least one, or leave it out.")
    try:
        check_template(tokenizer, records)
        encoded, _ = encode_all(records, tokenizer, max_length)
    except CorpusError as error:
        raise CorpusError(f"{source}: {error}") from None
    parts: dict[int, list[Encoded]] = {}
    for part in encoded:
        parts.setdefault(part.index, []).append(part)
    if not parts:
        raise InfluenceError(
            f"{source}: none of its {counted(len(records), 'example')} fits in {max_length} "
            "tokens. Give shorter examples or a larger max_length."
        )
    kept = [Candidate(source, number, records[number], tuple(own)) for number, own in parts.items()]
    for each in kept:
        # The first token has no prediction. The mean loss of no tokens would be 0/0.
        if not any(part.supervised[1:].any() for part in each.encoded):
            raise InfluenceError(
                f"{each.name}: there is no token for the model to learn. Give the record a "
                "completion, or remove it."
            )
    return kept
