"""Packs the examples of a batch into rows without padding, or with little.

transformers takes each position 0 for the beginning of an example that attends to itself only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from corpus.tokens import Encoded


def pack(rows: Sequence[Encoded]) -> dict[str, Any]:
    """Puts examples one after the other into one row without padding.

    Args:
        rows: encoded examples.

    Returns:
        input_ids, labels and position_ids, int64 of shape (1, tokens of all examples). A label is
        -100, which the loss ignores, at every position that is not supervised, and at the first of
        each example, which the example before does not predict.
    """
    from transformers import DataCollatorWithFlattening

    features = [
        {
            "input_ids": row.ids.tolist(),
            "labels": np.where(row.supervised, row.ids, -100).tolist(),
        }
        for row in rows
    ]
    batch: dict[str, Any] = DataCollatorWithFlattening(return_tensors="pt")(features)
    return batch


def pack_rows(rows: Sequence[Encoded], pad: int) -> dict[str, Any]:
    """Puts examples into as few rows as hold them, each as long as the longest example.

    For attention that computes the whole square of a row, as all but FlashAttention do: one row of
    all examples would cost more than padding.

    Args:
        rows: encoded examples.
        pad: token to fill the ends of rows with.

    Returns:
        As pack, of shape (rows, longest). What fills a row has positions of its own from 0, so that
        it counts as one more example, and labels of -100.
    """
    import torch

    longest = max(len(row.ids) for row in rows)
    batch = {
        "input_ids": torch.full((0, longest), pad),
        "labels": torch.full((0, longest), -100),
        "position_ids": torch.zeros((0, longest), dtype=torch.long),
    }
    for members in bins([len(row.ids) for row in rows], longest):
        packed = pack([rows[member] for member in members])
        left = longest - packed["input_ids"].shape[1]
        ends = {
            "input_ids": torch.full((1, left), pad),
            "labels": torch.full((1, left), -100),
            "position_ids": torch.arange(left)[None],
        }
        for name in batch:
            row = torch.cat([packed[name], ends[name]], dim=1)
            batch[name] = torch.cat([batch[name], row])
    return batch


def bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Distributes examples over bins: the longest first, each into the first that has room.

    First-fit decreasing takes at most 11/9 of the fewest possible bins, and 2/3 of one more (Dósa,
    2007).

    Args:
        lengths: number of tokens of each example, at most `capacity`.
        capacity: number of tokens that a bin holds.

    Returns:
        The numbers of the examples in each bin.

    >>> bins([5, 2, 3, 4], 6)
    [[0], [3, 1], [2]]
    """
    filled: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        at = next((at for at, left in enumerate(room) if left >= lengths[number]), len(room))
        if at == len(room):
            filled.append([])
            room.append(capacity)
        filled[at].append(number)
        room[at] -= lengths[number]
    return filled
