"""Validation loss per dataset, on supervised tokens only, with its standard error.

    L = Σ_e loss_e / Σ_e tokens_e        loss_e: summed negative log-likelihood (nats) of the supervised tokens of example e

Tokens of one example are not independent, so the error is clustered by example. L is a ratio of two sums; its variance is
the linearisation estimator for a ratio under simple random sampling of clusters (Cochran, Sampling Techniques, 3rd edition,
1977, eq. 2.39 and 6.13, without finite population correction):

    r_e = loss_e − L·tokens_e        var(L) = n/(n−1) · Σ r_e² / (Σ tokens_e)²

Worked example: losses (2, 4) on (1, 3) tokens: L = 6/4 = 1.5, r = (0.5, −0.5), var = 2 · 0.5 / 16 = 0.0625, stderr 0.25.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.overrides import TorchFunctionMode

from corpus.jsonl import Example
from corpus.tokens import Encoded, encode_all
from evaluation.errors import DataError, Stopped

UNLIMITED = 10**9
"""A tokenizer that knows no limit reports 10^30 as its model_max_length."""


class Loss(NamedTuple):
    """The loss of one model on one dataset."""

    dataset: str
    value: float
    """Nats per supervised token, weighted by token; NaN where the model gives NaN."""
    stderr: float
    """Standard error of `value`, clustered by example; NaN for a single example."""
    n: int
    """Examples."""
    tokens: int
    """Supervised tokens."""


class Batch(NamedTuple):
    """Some examples of one dataset, padded on the right."""

    ids: Tensor
    """(examples, length) int64. Padding repeats a row's last token: nothing that is scored comes after it."""
    columns: Tensor
    """(columns,) int64: the positions at which some row predicts a supervised token."""
    rows: Tensor
    """(tokens,) int64: per supervised token the row of the batch,"""
    places: Tensor
    """(tokens,) int64: which of `columns` predicts it,"""
    targets: Tensor
    """(tokens,) int64: the token itself,"""
    examples: Tensor
    """(tokens,) int64: and the example of the dataset that it belongs to."""


class Dataset(NamedTuple):
    """One dataset, tokenised and batched."""

    name: str
    n: int
    tokens: int
    batches: tuple[Batch, ...]


@dataclass(frozen=True)
class Prepared:
    """Datasets that can be scored again and again: always the same examples, tokens and batches."""

    datasets: tuple[Dataset, ...]
    dropped: dict[str, int]
    """Per dataset the examples that were left out because they exceed the length limit."""
    largest: int
    """The largest token number, which must be known to the model."""

    @property
    def tokens(self) -> int:
        """Supervised tokens in all."""
        return sum(dataset.tokens for dataset in self.datasets)

    @property
    def positions(self) -> int:
        """Token positions that one pass computes, padding included."""
        return sum(batch.ids.numel() for dataset in self.datasets for batch in dataset.batches)


def prepare(
    datasets: Mapping[str, Sequence[Example]],
    tokenizer: Any,
    *,
    limit: int | None = None,
    max_length: int | None = None,
    batch_tokens: int = 512,
) -> Prepared:
    """Tokenise once, and batch by length.

    Args:
        datasets: examples by dataset name; results come in this order.
        tokenizer: the model's.
        limit: the first so many examples of each dataset, so that a quick measurement is the same subset every time.
        max_length: tokens per example; longer ones are left out and counted, never cut. Default: the tokenizer's limit.
        batch_tokens: most positions per batch, padding included (one example may exceed it). On one thread and a model
            of 2 million parameters 512 was the fastest of 128 to 16384 (larger ones fall out of the cache); on
            an accelerator give 16384.

    Raises:
        DataError: no datasets, a limit below 1, or a dataset of which nothing is left.
    """
    if not datasets:
        raise DataError("no datasets were given. Give at least one dataset with one example.")
    if limit is not None and limit < 1:
        raise DataError(
            f"limit is {limit}; expected at least 1 example per dataset, or None for all."
        )
    if max_length is None and tokenizer.model_max_length < UNLIMITED:
        max_length = tokenizer.model_max_length
    made, dropped, largest = [], {}, 0
    for name, examples in datasets.items():
        encoded, out = encode_all(examples[:limit], tokenizer, max_length)
        encoded = [_shortened(item) for item in encoded if any(item.supervised[1:])]
        if not encoded:
            raise DataError(
                f"dataset {name!r}: none of {out.total} examples can be scored ({out.too_long} are longer than "
                f"{max_length} tokens). Give shorter examples or a larger max_length."
            )
        dropped[name] = out.total - len(encoded)
        largest = max(largest, *(max(item.ids) for item in encoded))
        batches = tuple(_batch(encoded, members) for members in _by_length(encoded, batch_tokens))
        made.append(
            Dataset(name, len(encoded), sum(len(batch.targets) for batch in batches), batches)
        )
    return Prepared(tuple(made), dropped, largest)


def losses(
    module: nn.Module, prepared: Prepared, *, should_stop: Callable[[], bool] | None = None
) -> Iterator[Loss]:
    """The loss on each dataset, in order, each as soon as it is known.

    Args:
        module: any causal language model of transformers, in evaluation mode, on any device.
        prepared: what `prepare` made with this model's tokenizer.
        should_stop: asked before each batch.

    Raises:
        Stopped: `should_stop` said so; the losses that were yielded before stand.
        DataError: a token lies outside the model's vocabulary, as when the tokenizer is another model's.
    """
    # Looked at before: on an accelerator an index out of range breaks the whole process.
    if prepared.largest >= (known := vocabulary_size(module)):
        raise DataError(
            f"token {prepared.largest} occurs in the data, the model knows {known} tokens. Use the tokenizer of this model."
        )
    selects = "logits_to_keep" in inspect.signature(module.forward).parameters
    for dataset in prepared.datasets:
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
    """Σ sums / Σ counts and its standard error over examples, both float64 of shape (n,); see the head of this file.

    >>> ratio(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 3.0]))
    (1.5, 0.25)
    """
    n, total = len(sums), float(counts.sum())
    value = float(sums.sum()) / total
    if n < 2:
        return value, math.nan
    residuals = sums - value * counts
    return value, math.sqrt(n / (n - 1) * float(residuals.square().sum())) / total


@torch.inference_mode()
def _token_losses(module: nn.Module, batch: Batch, selects: bool) -> Tensor:
    """(tokens,) float32: the negative log-likelihood of each supervised token.

    Only columns that predict something reach the output layer, through transformers' own `logits_to_keep`, which every
    causal model of version 5 that we met has: so each architecture's scaling and capping of logits stays in force.
    """
    device = next(module.parameters()).device
    ids, columns, rows, places, targets = (part.to(device) for part in batch[:5])
    keep = {"logits_to_keep": columns} if selects else {}
    with _OneDnn():
        logits = module(input_ids=ids, use_cache=False, **keep).logits
    # A model whose wrapper swallowed logits_to_keep returns all columns.
    at = places if logits.shape[1] == len(columns) else columns[places]
    return cross_entropy(logits[rows, at].float(), targets, reduction="none")


class _OneDnn(TorchFunctionMode):
    """Float32 products on the CPU through oneDNN, in this thread and block only; everything else as it is.

    torch gives them to MKL, which keeps to half of the vector width on AMD: 200 instead of 92 GFLOP/s measured on one
    core (EPYC, AVX-512), and a third less time for a whole pass. The result differs in the rounding of sums only.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            func is linear
            and not kwargs
            and _FUSED is not None
            and _plain(args[0])
            and _plain(args[1])
        ):
            return _FUSED(args[0], args[1], args[2] if len(args) > 2 else None, "none", [], "")
        return func(*args, **(kwargs or {}))


# The operator that torch.compile uses on CPUs; no public function reaches it. Where a build lacks it MKL does the work.
_FUSED = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available()
    else None
)  # type: ignore[no-untyped-call]


def _plain(tensor: Tensor) -> bool:
    return (
        tensor.dtype is torch.float32
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
    )


def vocabulary_size(module: nn.Module) -> int:
    """How many tokens a causal language model has rows for: ids from there on have no embedding."""
    model: Any = module
    if hasattr(model, "get_input_embeddings"):
        return int(model.get_input_embeddings().weight.shape[0])
    return int(model.config.vocab_size)


def _shortened(item: Encoded) -> Encoded:
    """Without what follows the last supervised token: a causal model's earlier predictions do not depend on it."""
    end = len(item.supervised) - item.supervised[::-1].index(True)
    return Encoded(item.ids[:end], item.supervised[:end])


def _by_length(encoded: list[Encoded], batch_tokens: int) -> Iterator[list[int]]:
    """Example numbers in batches of similar length, longest first so that a lack of memory shows at once."""
    order = sorted(range(len(encoded)), key=lambda number: -len(encoded[number].ids))
    while order:
        size = max(1, batch_tokens // len(encoded[order[0]].ids))
        yield order[:size]
        order = order[size:]


def _batch(encoded: list[Encoded], members: list[int]) -> Batch:
    length = len(encoded[members[0]].ids) - 1  # the last token is only predicted, never read
    ids, predicted = [], []
    for row, number in enumerate(members):
        tokens, supervised = encoded[number].ids, encoded[number].supervised
        ids.append((tokens[:-1] + [tokens[-1]] * length)[:length])
        predicted += [
            (row, at - 1, tokens[at], number) for at in range(1, len(tokens)) if supervised[at]
        ]
    rows, positions, targets, examples = torch.tensor(predicted).unbind(1)
    columns, places = torch.unique(positions, return_inverse=True)
    return Batch(torch.tensor(ids), columns, rows, places, targets, examples)
