"""Prepared examples without padding: alone, or with those of their batch that are equally long."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.loss import Batch, Prepared


class EqualLengthBatch(NamedTuple):
    """Examples of one dataset that are equally long."""

    dataset: str
    examples: list[int]
    ids: Tensor
    """(examples, length) int64, without padding."""
    rows: Tensor
    """(tokens,) int64: per supervised token the row that it is of,"""
    positions: Tensor
    """(tokens,) int64: the position that predicts it,"""
    targets: Tensor
    """(tokens,) int64: and the token."""


def equal_length_batches(prepared: Prepared, *, alone: bool) -> Iterator[EqualLengthBatch]:
    """The examples of all datasets without their padding, alone or with those of their batch that are as long."""
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
                yield _part(dataset.name, batch, rows, positions, int(lengths[rows[0]]))


def _part(
    dataset: str, batch: Batch, rows: list[int], positions: Tensor, length: int
) -> EqualLengthBatch:
    chosen = torch.isin(batch.rows, torch.tensor(rows))
    numbers = [int(batch.examples[batch.rows == row][0]) for row in rows]
    place = torch.tensor([rows.index(row) for row in batch.rows[chosen].tolist()])
    return EqualLengthBatch(
        dataset, numbers, batch.ids[rows, :length], place, positions[chosen], batch.targets[chosen]
    )
