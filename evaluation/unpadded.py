"""Takes prepared examples apart into batches without padding."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.prepared import Batch, Prepared


class EqualLengthBatch(NamedTuple):
    """Examples of one dataset that have the same length."""

    dataset: str
    """Name of the dataset."""
    examples: list[int]
    """Number of each example in the dataset."""
    ids: Tensor
    """(examples, length) int64, without padding."""
    rows: Tensor
    """(tokens,) int64: the row of `ids` that each supervised token belongs to."""
    positions: Tensor
    """(tokens,) int64: the position that predicts each supervised token."""
    targets: Tensor
    """(tokens,) int64: the supervised tokens themselves."""


def equal_length_batches(prepared: Prepared, *, alone: bool) -> Iterator[EqualLengthBatch]:
    """Yields the examples of all datasets without padding.

    Args:
        prepared: the examples, in padded batches.
        alone: whether each batch has a single example; else it has all examples of a padded batch
            that have the same length.
    """
    for dataset in prepared.datasets:
        for batch in dataset.batches:
            positions = batch.columns[batch.places]
            lengths = torch.zeros(len(batch.ids), dtype=torch.long)
            # What comes after the last position that predicts something is padding.
            lengths.scatter_reduce_(0, batch.rows, positions + 1, "amax")
            groups = [[row] for row in range(len(lengths))]
            if not alone:
                groups = [
                    (lengths == length).nonzero().flatten().tolist()
                    for length in torch.unique(lengths).tolist()
                ]
            for rows in groups:
                yield _cut_out(dataset.name, batch, rows, positions, int(lengths[rows[0]]))


def _cut_out(
    dataset: str, batch: Batch, rows: list[int], positions: Tensor, length: int
) -> EqualLengthBatch:
    """Returns some rows of a padded batch, cut to `length`; their tokens get new row numbers."""
    tokens = torch.isin(batch.rows, torch.tensor(rows))
    # All tokens of a row belong to one example, so the first of them tells which.
    examples = [int(batch.examples[batch.rows == row][0]) for row in rows]
    new_rows = torch.tensor([rows.index(row) for row in batch.rows[tokens].tolist()])
    return EqualLengthBatch(
        dataset,
        examples,
        batch.ids[rows, :length],
        new_rows,
        positions[tokens],
        batch.targets[tokens],
    )
