"""Tokenises validation data once, in batches by length, to be scored many times."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from corpus.errors import CorpusError
from corpus.records import Record
from corpus.tokens import Encoded, encode_all
from evaluation.errors import DataError

UNLIMITED = 10**9
"""A model_max_length from here on is no limit: a tokenizer without one reports 10^30."""


class Batch(NamedTuple):
    """Some examples of one dataset, padded on the right."""

    ids: Tensor
    """(examples, length) int64. Padding repeats a row's last token; it comes after everything that
    is scored.
    """
    columns: Tensor
    """(columns,) int64: the positions at which some row predicts a supervised token."""
    rows: Tensor
    """(tokens,) int64: the row of `ids` that each supervised token belongs to."""
    places: Tensor
    """(tokens,) int64: the index in `columns` of the position that predicts each token."""
    targets: Tensor
    """(tokens,) int64: the supervised tokens themselves."""
    examples: Tensor
    """(tokens,) int64: the number of the example in the dataset that each token belongs to."""


class Dataset(NamedTuple):
    """One dataset, tokenised and batched."""

    name: str
    n: int
    """Number of examples."""
    tokens: int
    """Number of supervised tokens."""
    batches: tuple[Batch, ...]


@dataclass(frozen=True)
class Prepared:
    """Datasets that can be scored many times: always the same examples, tokens and batches."""

    datasets: tuple[Dataset, ...]
    dropped: dict[str, int]
    """Number of examples per dataset that were left out.

    They exceed the length limit, or have no supervised token after their first token.
    """
    largest: int
    """The largest token id in the data. The model must have an embedding for it."""

    @property
    def tokens(self) -> int:
        """Number of supervised tokens in all datasets."""
        return sum(dataset.tokens for dataset in self.datasets)

    @property
    def positions(self) -> int:
        """Number of token positions that one pass over all datasets computes, with padding."""
        return sum(batch.ids.numel() for dataset in self.datasets for batch in dataset.batches)


def prepare(
    datasets: Mapping[str, Sequence[Record]],
    tokenizer: Any,
    *,
    limit: int | None = None,
    max_length: int | None = None,
    batch_tokens: int = 512,
) -> Prepared:
    """Tokenises datasets once, and batches their examples by length.

    Args:
        datasets: name of a dataset -> its examples. Results come in this order. Of a chat the
            tokens count that training learns; see corpus.tokens.
        tokenizer: the tokenizer of the model.
        limit: use only the first `limit` examples of each dataset, so that a quick measurement
            takes the same subset every time.
        max_length: the most tokens of an example. Longer examples are left out and counted, never
            cut. By default it is the tokenizer's limit.
        batch_tokens: the most positions of a batch, with padding; a single example may exceed it.
            On one thread and a model of 2 million parameters 512 was the fastest of 128 to 16384,
            because larger batches fall out of the cache. On an accelerator give 16384.

    Raises:
        DataError: there are no datasets, `limit` is below 1, or no example of a dataset is left.
        CorpusError: the tokenizer's template cannot write a chat.
    """
    if not datasets:
        raise DataError("no datasets were given. Give at least one dataset with one example.")
    if limit is not None and limit < 1:
        raise DataError(
            f"limit is {limit}; expected at least 1 example per dataset, or None for all."
        )
    if max_length is None and tokenizer.model_max_length < UNLIMITED:
        max_length = tokenizer.model_max_length
    prepared, dropped, largest = [], {}, 0
    for name, examples in datasets.items():
        try:
            encoded, counts = encode_all(examples[:limit], tokenizer, max_length)
        except CorpusError as error:
            raise CorpusError(f"dataset {name!r}, {error}") from None
        # The first token has no prediction, so an example without another one cannot be scored.
        encoded = [item for item in encoded if item.supervised[1:].any()]
        if not encoded:
            raise DataError(
                f"dataset {name!r}: none of {counts.total} examples can be scored "
                f"({counts.too_long} are longer than {max_length} tokens). "
                "Give shorter examples or a larger max_length."
            )
        dropped[name] = counts.total - len(encoded)
        largest = max(largest, *(int(item.ids.max()) for item in encoded))
        tokens = sum(int(item.supervised[1:].sum()) for item in encoded)
        prepared.append(Dataset(name, len(encoded), tokens, batched(encoded, batch_tokens)))
    return Prepared(tuple(prepared), dropped, largest)


def batched(encoded: Sequence[Encoded], batch_tokens: int) -> tuple[Batch, ...]:
    """Returns examples in batches of similar length, the longest first.

    Args:
        encoded: the examples, each with a supervised token after its first token.
        batch_tokens: as in `prepare`.
    """
    shortened = [_without_tail(item) for item in encoded]
    return tuple(_batch(shortened, members) for members in _by_length(shortened, batch_tokens))


def parts(batch: Batch, positions: int) -> Iterator[Batch]:
    """Splits a batch into smaller ones of the same examples, in their order.

    Args:
        batch: the examples.
        positions: the most positions of a part, with padding; a single example may exceed it.
    """
    size = max(1, positions // batch.ids.shape[1])
    for start in range(0, len(batch.ids), size):
        mine = (batch.rows >= start) & (batch.rows < start + size)
        used, places = torch.unique(batch.places[mine], return_inverse=True)
        columns = batch.columns[used]
        # No prediction depends on what comes after it.
        ids = batch.ids[start : start + size, : int(columns[-1]) + 1]
        rows, targets = batch.rows[mine] - start, batch.targets[mine]
        yield Batch(ids, columns, rows, places, targets, batch.examples[mine])


def begin_with(dataset: Dataset, first: int, batch_tokens: int = 512) -> tuple[Dataset, Dataset]:
    """Returns the first examples of a dataset, and the dataset with these examples in front.

    The batches of the second begin with those of the first. So what was measured on the first
    examples is a part of what is measured on all.

    Args:
        dataset: of `prepare`.
        first: how many examples, from 1 to `dataset.n`.
        batch_tokens: as in `prepare`.
    """
    by_number = dict(pair for batch in dataset.batches for pair in _taken_apart(batch))
    encoded = [by_number[number] for number in range(dataset.n)]
    few, others = batched(encoded[:first], batch_tokens), batched(encoded[first:], batch_tokens)
    rest = (batch._replace(examples=batch.examples + first) for batch in others)
    tokens = sum(len(batch.targets) for batch in few)
    return Dataset(dataset.name, first, tokens, few), dataset._replace(batches=(*few, *rest))


def _taken_apart(batch: Batch) -> Iterator[tuple[int, Encoded]]:
    """Yields the number of each example of a batch, and the example up to its last target."""
    positions = batch.columns[batch.places]
    for row, tokens in enumerate(batch.ids):
        mine = batch.rows == row
        at, targets = positions[mine], batch.targets[mine]
        length = int(at.max()) + 2
        ids = torch.cat([tokens[: length - 1], targets[at.argmax()][None]])
        supervised = torch.zeros(length, dtype=torch.bool)
        supervised[at + 1] = True
        number = int(batch.examples[mine][0])
        yield number, Encoded(ids.numpy().astype(np.int32), supervised.numpy())


def is_before(batch: Batch, first: int) -> bool:
    """Returns whether all examples of a batch are among the first ones of the dataset.

    Raises:
        ValueError: some are, and others are not.
    """
    low, high = int(batch.examples.min()), int(batch.examples.max())
    if low < first <= high:
        raise ValueError(
            f"a batch has the examples {low} to {high}, and {first} are known. "
            "Put the first examples into batches of their own, with begin_with."
        )
    return high < first


def _without_tail(item: Encoded) -> Encoded:
    """Returns an example without the tokens after its last supervised one.

    The earlier predictions of a causal model do not depend on them.
    """
    end = int(np.flatnonzero(item.supervised)[-1]) + 1
    return Encoded(item.ids[:end], item.supervised[:end])


def _by_length(encoded: list[Encoded], batch_tokens: int) -> Iterator[list[int]]:
    """Yields example numbers in batches of similar length.

    The longest examples come first, so that a lack of memory shows at once.
    """
    order = sorted(range(len(encoded)), key=lambda number: -len(encoded[number].ids))
    while order:
        # The first example is the longest, so it decides how many rows fit.
        size = max(1, batch_tokens // len(encoded[order[0]].ids))
        yield order[:size]
        order = order[size:]


def _batch(encoded: list[Encoded], members: list[int]) -> Batch:
    """Returns a batch of the examples `members`, of which the first is the longest."""
    length = len(encoded[members[0]].ids) - 1  # the last token is only predicted, never read
    ids = np.empty((len(members), length), np.int64)
    predicted = []
    for row, number in enumerate(members):
        tokens, supervised = encoded[number].ids, encoded[number].supervised
        # The last token serves as padding, because not every tokenizer has a token for it.
        ids[row], ids[row, : len(tokens) - 1] = tokens[-1], tokens[:-1]
        at = np.flatnonzero(supervised[1:])
        predicted.append(
            np.stack([np.full_like(at, row), at, tokens[at + 1], np.full_like(at, number)])
        )
    rows, positions, targets, examples = torch.from_numpy(np.concatenate(predicted, axis=1))
    columns, places = torch.unique(positions, return_inverse=True)
    return Batch(torch.from_numpy(ids), columns, rows, places, targets, examples)


def vocabulary_size(module: nn.Module) -> int:
    """Returns the number of tokens that a causal language model has embeddings for."""
    model: Any = module
    if hasattr(model, "get_input_embeddings"):
        return int(model.get_input_embeddings().weight.shape[0])
    return int(model.config.vocab_size)


def check_vocabulary(module: nn.Module, prepared: Prepared) -> None:
    """Refuses data with tokens that the model has no embedding for.

    This is checked before the model runs, because on an accelerator an index out of range breaks
    the whole process.

    Raises:
        DataError: as when the tokenizer belongs to another model.
    """
    if prepared.largest >= (size := vocabulary_size(module)):
        raise DataError(
            f"token {prepared.largest} occurs in the data, the model knows {size} tokens. "
            "Use the tokenizer of this model."
        )
