"""Influence of each stored example on validation examples: cosines of gradients, weighted by rate.

LESS (2402.04333), definition 3.1: the score of an example z for a validation example z' is
Σ_i η̄_i cos(∇ℓ(z'; θ_i), Γ(z, θ_i)) over the checkpoints i, where η̄_i is the mean learning rate of
an epoch. Here the η̄_i are scaled to sum to 1, so a score is between −1 and 1.

All scores are products of stored rows with a few target vectors for each checkpoint. They are
computed in blocks of rows, on the device and in the dtype of the validation gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from influence.datastore.store import Datastore
from influence.datastore.targets import Reading, example_targets, subtask_targets
from influence.errors import InfluenceError

BLOCK = 4096
"""Stored rows that are read at once: 128 MB in float32 at d = 8192."""


class SubtaskScores(NamedTuple):
    """Scores of all stored examples for each subtask of a validation set."""

    subtasks: tuple[str, ...]
    values: np.ndarray
    """(examples, subtasks), between −1 and 1."""

    def highest(self) -> np.ndarray:
        """Returns each example's score for the subtask that it helps most (examples,), as LESS."""
        highest: np.ndarray = self.values.max(axis=1)
        return highest


def subtask_scores(
    store: Datastore,
    validation: Sequence[Tensor],
    subtask_ids: Sequence[str],
    *,
    subtasks: Sequence[str] | None = None,
    reading: Reading = "mean_of_cos",
    centre: bool = False,
    block: int = BLOCK,
) -> SubtaskScores:
    """Scores every stored example for every subtask.

    Args:
        store: the gradients of the pool.
        validation: projected gradients of the validation examples (V, d), one tensor for each
            checkpoint, float32 or float64.
        subtask_ids: the subtask of each validation example; subtasks may have different sizes.
        subtasks: the subtasks that there must be, in the order of the columns; by default those of
            `subtask_ids`, in the order in which they first occur.
        reading: "mean_of_cos" is the mean of the cosines with the subtask's examples, as in LESS's
            released code; "cos_of_mean" is the cosine with the mean of their gradients, as in the
            paper, where long gradients count more.
        centre: subtract the mean of the stored gradients from each before the cosine. Adam's
            directions share a term, the momentum, which otherwise decides most of the cosine.
        block: rows that are read at once; it does not change the scores but for rounding.

    Raises:
        InfluenceError: a subtask has no examples, a gradient is zero, or the validation gradients
            do not fit the datastore.
    """
    names = tuple(dict.fromkeys(subtask_ids) if subtasks is None else subtasks)
    targets = subtask_targets(store.settings, validation, subtask_ids, names, reading)
    values = np.empty((store.settings.examples, len(names)), _numpy_dtype(targets[0]))
    for span, scores in _weighted_products(store, targets, centre, block):
        values[span] = scores.cpu().numpy()
    return SubtaskScores(names, values)


def example_scores(
    store: Datastore,
    validation: Sequence[Tensor],
    out: Path | None = None,
    *,
    centre: bool = False,
    block: int = BLOCK,
) -> np.ndarray:
    """Scores every stored example for every validation example.

    Args:
        store: the gradients of the pool.
        validation: as in `subtask_scores`.
        out: a new file (.npy) that is mapped instead of memory, for matrices that do not fit in it.
        centre: as in `subtask_scores`.
        block: as in `subtask_scores`.

    Returns:
        (examples, V), between −1 and 1; for `out` the mapped file.

    Raises:
        InfluenceError: a gradient is zero, or the validation gradients do not fit the datastore.
    """
    targets = example_targets(store.settings, validation)
    products = _weighted_products(store, targets, centre, block)
    shape, dtype = (store.settings.examples, len(validation[0])), _numpy_dtype(targets[0])
    if out is None:
        values = np.empty(shape, dtype)
        for span, scores in products:
            values[span] = scores.cpu().numpy()
        return values
    draft = out.with_name(f".{out.name}.draft")
    try:
        file = np.lib.format.open_memmap(draft, "w+", dtype, shape)
        for span, scores in products:
            file[span] = scores.cpu().numpy()
        file.flush()
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return np.lib.format.open_memmap(out, "r")


def _weighted_products(
    store: Datastore, targets: Sequence[Tensor], centre: bool, block: int
) -> Iterator[tuple[slice, Tensor]]:
    """Yields Σ_i η̄_i (stored rows of length 1 at checkpoint i) · (targets of i), block by block.

    Args:
        store: the datastore.
        targets: the vectors of each checkpoint (targets, d).
        centre: whether the mean of the stored gradients is subtracted before rows get length 1.
        block: rows of a block.

    Yields:
        Which examples, and their numbers (rows, targets), on the targets' device.
    """
    store.check_no_zero_gradient()
    rates = _weights(store)
    count = len(rates)
    rows = [store.rows(number) for number in range(count)]
    norms = [store.norms(number) for number in range(count)]
    means = [_mean(*each, block) if centre else None for each in zip(rows, norms, strict=True)]
    for start in range(0, store.settings.examples, block):
        span = slice(start, min(start + block, store.settings.examples))
        total = torch.zeros(())
        for number, (rate, target) in enumerate(zip(rates, targets, strict=True)):
            few = _to(rows[number][span], target)
            mean = means[number]
            if mean is not None:
                few = few * _to(norms[number][span], target)[:, None] - _to(mean, target)
            name = store.settings.checkpoints[number].name
            lengths = few.norm(dim=1, keepdim=True)
            if not lengths.all():
                first = store.settings.where(start + int((lengths == 0).nonzero()[0, 0]))
                raise InfluenceError(
                    f"The gradient of {first} at {name!r} is the mean of all stored gradients, so "
                    "it is zero once the mean is subtracted. Score without centring."
                )
            total = total.to(target) + rate * ((few / lengths) @ target.T)
        yield span, total


def _weights(store: Datastore) -> list[float]:
    """Returns the mean learning rates of the checkpoints, scaled to sum to 1.

    Raises:
        InfluenceError: one is negative, or all are 0.
    """
    rates = [checkpoint.mean_rate for checkpoint in store.settings.checkpoints]
    if min(rates) < 0 or not sum(rates) > 0:
        raise InfluenceError(
            f"The mean learning rates of the checkpoints are {', '.join(map(str, rates))}; they "
            "weight the scores, so none may be negative and one must be more than 0."
        )
    return [rate / sum(rates) for rate in rates]


def _mean(rows: np.ndarray, norms: np.ndarray, block: int) -> np.ndarray:
    """Returns the mean of stored gradients, rows × norms, in float64 (d,)."""
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), block):
        span = slice(start, start + block)
        total += norms[span].astype(np.float64) @ rows[span].astype(np.float64)
    return total / len(rows)


def _to(values: np.ndarray, like: Tensor) -> Tensor:
    """Returns stored numbers on the device and in the dtype of a tensor."""
    return torch.from_numpy(values.astype(_numpy_dtype(like))).to(like.device)


def _numpy_dtype(values: Tensor) -> type[np.float32] | type[np.float64]:
    return np.float64 if values.dtype == torch.float64 else np.float32
