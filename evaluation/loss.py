"""Computes the validation loss per dataset, on supervised tokens only, with its standard error.

    L = Σ_e loss_e / Σ_e tokens_e

loss_e is the summed negative log-likelihood, in nats, of the supervised tokens of example e.

Tokens of one example are not independent, so the error is clustered by example. L is a ratio of two
sums. Its variance is the linearisation estimator for a ratio under simple random sampling of
clusters (Cochran, Sampling Techniques, 3rd edition, 1977, eq. 2.39 and 6.13, without finite
population correction):

    r_e = loss_e − L·tokens_e        var(L) = n/(n−1) · Σ r_e² / (Σ tokens_e)²

Worked example: losses (2, 4) on (1, 3) tokens give L = 6/4 = 1.5, r = (0.5, −0.5),
var = 2 · 0.5 / 16 = 0.0625, stderr 0.25.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from corpus.jsonl import Example
from corpus.tokens import Encoded, encode_all
from evaluation.errors import DataError, Stopped
from evaluation.onednn import OneDnnProducts

UNLIMITED = 10**9
"""A model_max_length from here on is no limit: a tokenizer without one reports 10^30."""


class Loss(NamedTuple):
    """The loss of one model on one dataset."""

    dataset: str
    """Name of the dataset."""
    value: float
    """Nats per supervised token, each token counting alike; NaN if the model gives NaN."""
    stderr: float
    """Standard error of `value`, clustered by example; NaN for a single example."""
    n: int
    """Number of examples."""
    tokens: int
    """Number of supervised tokens."""


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
    datasets: Mapping[str, Sequence[Example]],
    tokenizer: Any,
    *,
    limit: int | None = None,
    max_length: int | None = None,
    batch_tokens: int = 512,
) -> Prepared:
    """Tokenises datasets once, and batches their examples by length.

    Args:
        datasets: name of a dataset -> its examples. Results come in this order.
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
        encoded, counts = encode_all(examples[:limit], tokenizer, max_length)
        # The first token has no prediction, so an example without another one cannot be scored.
        encoded = [_without_tail(item) for item in encoded if any(item.supervised[1:])]
        if not encoded:
            raise DataError(
                f"dataset {name!r}: none of {counts.total} examples can be scored "
                f"({counts.too_long} are longer than {max_length} tokens). "
                "Give shorter examples or a larger max_length."
            )
        dropped[name] = counts.total - len(encoded)
        largest = max(largest, *(max(item.ids) for item in encoded))
        batches = tuple(_batch(encoded, members) for members in _by_length(encoded, batch_tokens))
        prepared.append(
            Dataset(name, len(encoded), sum(len(batch.targets) for batch in batches), batches)
        )
    return Prepared(tuple(prepared), dropped, largest)


def losses(
    module: nn.Module, prepared: Prepared, *, should_stop: Callable[[], bool] | None = None
) -> Iterator[Loss]:
    """Computes the loss on each dataset, and yields each loss as soon as it is known.

    Args:
        module: any causal language model of transformers, in evaluation mode, on any device.
        prepared: what `prepare` made with this model's tokenizer.
        should_stop: asked before each batch.

    Raises:
        Stopped: `should_stop` returned True. The losses that were yielded before are valid.
        DataError: a token is outside the model's vocabulary, as when the tokenizer belongs to
            another model.
    """
    check_vocabulary(module, prepared)
    selects = "logits_to_keep" in inspect.signature(module.forward).parameters
    for dataset in prepared.datasets:
        # Summed in float64: a float32 sum over many tokens would lose digits.
        sums = torch.zeros(dataset.n, dtype=torch.float64)
        counts = torch.zeros(dataset.n, dtype=torch.float64)
        for batch in dataset.batches:
            if should_stop is not None and should_stop():
                raise Stopped(f"stopped at dataset {dataset.name!r}")
            token_losses = _token_losses(module, batch, selects).to("cpu", torch.float64)
            sums.index_add_(0, batch.examples, token_losses)
            counts.index_add_(0, batch.examples, torch.ones_like(token_losses))
        yield Loss(dataset.name, *ratio(sums, counts), n=dataset.n, tokens=dataset.tokens)


def ratio(sums: Tensor, counts: Tensor) -> tuple[float, float]:
    """Returns Σ sums / Σ counts and its standard error; the formula is at the head of this file.

    Args:
        sums: (n,) float64, the summed loss of each example.
        counts: (n,) float64, the number of supervised tokens of each example.

    >>> ratio(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 3.0]))
    (1.5, 0.25)
    """
    n, total = len(sums), float(counts.sum())
    value = float(sums.sum()) / total
    # The estimator divides by n − 1.
    if n < 2:
        return value, math.nan
    residuals = sums - value * counts
    return value, math.sqrt(n / (n - 1) * float(residuals.square().sum())) / total


@torch.inference_mode()
def _token_losses(module: nn.Module, batch: Batch, selects: bool) -> Tensor:
    """Returns the negative log-likelihood of each supervised token, (tokens,) float32, in nats.

    Only columns that predict something reach the output layer. They are selected by transformers'
    own `logits_to_keep`, so each architecture's scaling and capping of logits is applied; every
    causal model of transformers 5 that we met has this argument.

    Args:
        module: the model.
        batch: the examples.
        selects: whether the model takes `logits_to_keep`.
    """
    device = next(module.parameters()).device
    # The sixth part, the numbers of the examples, is used on the CPU only.
    ids, columns, rows, places, targets = (part.to(device) for part in batch[:5])
    keep = {"logits_to_keep": columns} if selects else {}
    with OneDnnProducts():
        logits = module(input_ids=ids, use_cache=False, **keep).logits
    # A model whose wrapper swallowed logits_to_keep returns all columns.
    positions = places if logits.shape[1] == len(columns) else columns[places]
    return cross_entropy(logits[rows, positions].float(), targets, reduction="none")


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


def _without_tail(item: Encoded) -> Encoded:
    """Returns an example without the tokens after its last supervised one.

    The earlier predictions of a causal model do not depend on them.
    """
    end = len(item.supervised) - item.supervised[::-1].index(True)
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
    ids, predicted = [], []
    for row, number in enumerate(members):
        tokens, supervised = encoded[number].ids, encoded[number].supervised
        # The last token serves as padding, because not every tokenizer has a token for it.
        ids.append((tokens[:-1] + [tokens[-1]] * length)[:length])
        predicted += [
            (row, position - 1, tokens[position], number)
            for position in range(1, len(tokens))
            if supervised[position]
        ]
    rows, positions, targets, examples = torch.tensor(predicted).unbind(1)
    columns, places = torch.unique(positions, return_inverse=True)
    return Batch(torch.tensor(ids), columns, rows, places, targets, examples)
