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
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from evaluation.cpu_products import CpuProducts
from evaluation.errors import Stopped
from evaluation.prepared import Batch, Dataset, Prepared, check_vocabulary, is_before
from merging.threads import in_order, workers

SMALL = 500_000_000
"""Parameters of a model whose batches are computed side by side; see side_by_side."""
WIDE = 2**22
"""Logits that are converted to float32 at once."""


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
    sums: tuple[float, ...] = ()
    """The summed loss of each example, in nats; empty if only the whole is known."""
    counts: tuple[int, ...] = ()
    """The number of supervised tokens of each example, in the same order."""


def losses(
    module: nn.Module, prepared: Prepared, *, should_stop: Callable[[], bool] | None = None
) -> Iterator[Loss]:
    """Computes the loss on each dataset, and yields each loss as soon as it is known.

    Args:
        module: any causal language model of transformers, in evaluation mode, on any device.
        prepared: what `prepare` made with this model's tokenizer.
        should_stop: asked before each batch, and before each matrix product in it.

    Raises:
        Stopped: `should_stop` returned True. The losses that were yielded before are valid.
        DataError: a token is outside the model's vocabulary, as when the tokenizer belongs to
            another model.
    """
    check_vocabulary(module, prepared)
    sweep = Sweep(prepared.datasets)
    while not sweep.done:
        try:
            known = sweep.step(module, should_stop)
        except Stopped:
            raise Stopped(f"stopped at dataset {sweep.at!r}") from None
        yield from known


class Sweep:
    """The losses of some datasets, measured in steps, so that other work can come in between.

    The sums are kept here and not in the module. So the module may compute something else between
    two steps, as long as each step finds it with the same weights.

    Args:
        datasets: some of `Prepared.datasets`.
        known: name of a dataset -> the loss of its first examples, if measured; see begin_with.

    Attributes:
        positions: token positions computed so far, with padding.

    Raises:
        ValueError: a batch has examples that are known and others that are not.
    """

    def __init__(self, datasets: Sequence[Dataset], known: Mapping[str, Loss] | None = None):
        none = Loss("", 0.0, 0.0, 0, 0)
        begun = [(data, (known or {}).get(data.name, none)) for data in datasets]
        self._datasets = datasets
        self._batches = deque(
            (number, batch)
            for number, (data, loss) in enumerate(begun)
            for batch in data.batches
            if not is_before(batch, len(loss.sums))
        )
        self._sums = [_column(loss.sums, data.n) for data, loss in begun]
        self._counts = [_column(loss.counts, data.n) for data, loss in begun]
        self.positions = 0
        self._alone = False

    @property
    def done(self) -> bool:
        """Whether every batch was measured."""
        return not self._batches

    @property
    def at(self) -> str:
        """The name of the dataset of the next batch; there is none once `done`."""
        return self._datasets[self._batches[0][0]].name

    def step(self, module: nn.Module, should_stop: Callable[[], bool] | None = None) -> list[Loss]:
        """Measures the next batch, or several side by side; see `losses` for the arguments.

        Returns:
            The losses of the datasets whose last batch this was, in their order.

        Raises:
            Stopped: `should_stop` returned True. The batches are then still to be measured.
        """
        if should_stop is not None and should_stop():
            raise Stopped("stopped before a batch")
        count = min(1 if self._alone else side_by_side(module), len(self._batches))
        taken = [self._batches[place] for place in range(count)]
        measured = self._measure(module, [batch for _, batch in taken], should_stop)
        for (number, batch), measured_losses in zip(taken, measured, strict=True):
            self._batches.popleft()
            token_losses = measured_losses.to("cpu", torch.float64)
            self._sums[number].index_add_(0, batch.examples, token_losses)
            self._counts[number].index_add_(0, batch.examples, torch.ones_like(token_losses))
            self.positions += batch.ids.numel()
        left = {number for number, _ in self._batches}
        finished = sorted({number for number, _ in taken} - left)
        return [
            loss_of(self._datasets[number], self._sums[number], self._counts[number])
            for number in finished
        ]

    def _measure(
        self, module: nn.Module, batches: list[Batch], should_stop: Callable[[], bool] | None
    ) -> list[Tensor]:
        """Returns the losses of the supervised tokens of each batch."""
        selects = "logits_to_keep" in inspect.signature(module.forward).parameters
        compute = partial(_without_gradients, module, selects=selects, should_stop=should_stop)
        if len(batches) > 1:
            before = _buffers(module)
            measured = list(in_order(batches, compute, room=len(batches), threads=len(batches)))
            if _buffers(module) == before:
                return measured
            # The module writes into itself, so batches side by side may have used each other's
            # values.
            self._alone = True
        return [compute(batch) for batch in batches]


def loss_of(dataset: Dataset, sums: Tensor, counts: Tensor) -> Loss:
    """Returns the loss on a dataset.

    Args:
        dataset: its name and its numbers are taken.
        sums: (n,) float64, the summed loss of each example.
        counts: (n,) float64, the number of supervised tokens of each example.
    """
    each = tuple(sums.tolist()), tuple(map(int, counts.tolist()))
    return Loss(dataset.name, *ratio(sums, counts), dataset.n, dataset.tokens, *each)


def part_of(loss: Loss, dataset: Dataset) -> Loss:
    """Returns the loss on the first examples, from a loss that was measured on more.

    Args:
        loss: with the losses of its examples.
        dataset: the first examples; the first value of begin_with.
    """
    n = dataset.n
    return loss_of(dataset, _column(loss.sums[:n], n), _column(loss.counts[:n], n))


def _column(values: Sequence[float], n: int) -> Tensor:
    """Returns the values, followed by zeros, as (n,) float64."""
    # A float32 sum over many tokens would lose digits.
    column = torch.zeros(n, dtype=torch.float64)
    column[: len(values)] = torch.tensor(values, dtype=torch.float64)
    return column


def side_by_side(module: nn.Module) -> int:
    """Returns how many batches of a module are computed at once, each in a thread of its own.

    Up to SMALL parameters on a CPU this is as many as torch has threads: an operator is short there
    and sharing it between threads costs more than it gains. With 135 million parameters and two
    threads, 15,235 positions took 13.4 s side by side and 17.2 s with shared operators. A module
    whose rotary frequencies depend on the length of the batch writes them into itself, so it
    computes one batch at a time.
    """
    parameters = list(module.parameters())
    if parameters[0].device.type != "cpu" or sum(weight.numel() for weight in parameters) > SMALL:
        return 1
    # One kind, or one for each kind of layer. transformers tests for the same two
    # (dynamic_rope_update, modeling_rope_utils.py).
    kinds = [str(getattr(part, "rope_type", "")) for part in module.modules()]
    writes = any("dynamic" in kind or "longrope" in kind for kind in kinds)
    return 1 if writes else workers()


def _buffers(module: nn.Module) -> list[tuple[int, int]]:
    """Returns which buffers a module has, and how often each was written in place."""
    return [(id(buffer), buffer._version) for buffer in module.buffers()]


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
def _without_gradients(
    module: nn.Module, batch: Batch, selects: bool, should_stop: Callable[[], bool] | None
) -> Tensor:
    return token_losses(module, batch, selects, should_stop)


def token_losses(
    module: nn.Module, batch: Batch, selects: bool, should_stop: Callable[[], bool] | None
) -> Tensor:
    """Returns the negative log-likelihood of each supervised token, (tokens,), in nats.

    It is float32, or float64 if the model is.

    Args:
        module: the model.
        batch: the examples.
        selects: whether the model takes `logits_to_keep`.
        should_stop: see CpuProducts.
    """
    logits, positions = batch_logits(module, batch, selects, should_stop)
    rows, targets = batch.rows.to(logits.device), batch.targets.to(logits.device)
    wide = torch.promote_types(logits.dtype, torch.float32)

    def losses(part: slice) -> Tensor:
        picked = logits[rows[part], positions[part]].to(wide)
        return cross_entropy(picked, targets[part], reduction="none")

    # In float32 the logits of a batch and their softmax take three times as much memory as in
    # bfloat16. A backward pass keeps them all anyway, and would have a gradient for each piece.
    step = len(targets) if torch.is_grad_enabled() else max(1, WIDE // logits.shape[-1])
    starts = range(0, len(targets), step)
    return torch.cat([losses(slice(start, start + step)) for start in starts])


def batch_logits(
    module: nn.Module, batch: Batch, selects: bool, should_stop: Callable[[], bool] | None
) -> tuple[Tensor, Tensor]:
    """Returns a batch's logits, and which of them predicts each supervised token.

    Only columns that predict something reach the output layer. They are selected by transformers'
    own `logits_to_keep`, so each architecture's scaling and capping of logits is applied; every
    causal model of transformers 5 that we met has this argument.

    Args:
        module, batch, selects, should_stop: as in token_losses.

    Returns:
        (examples, columns, vocabulary); and (tokens,) int64: the column of each supervised token.
    """
    device = next(module.parameters()).device
    ids, columns, places = (part.to(device) for part in (batch.ids, batch.columns, batch.places))
    keep = {"logits_to_keep": columns} if selects else {}
    with CpuProducts(should_stop):
        logits = module(input_ids=ids, use_cache=False, **keep).logits
    # A model whose wrapper swallowed logits_to_keep returns all columns.
    return logits, places if logits.shape[1] == len(columns) else columns[places]
