"""Which examples each step sees, as one list from the first step to the last, and how a batch is padded.

The list is made before the first step and depends on the stage alone. So a run that goes on after a break skips as many
batches as are done, the end of a pass is no special place, and every process knows the whole order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from random import Random
from typing import Any, NamedTuple

from corpus.tokens import Encoded
from training.errors import TrainingError
from training.stage import Stage

POOL = 16
"""Batches that are drawn together and sorted by length: less padding, and still a new order in every pass."""


class Order(NamedTuple):
    """The batches of a run, in the order in which they are computed."""

    rows: list[list[int]]
    """Per batch the numbers of its examples; those of replay come after the stage's own."""
    steps: int
    """Updates of the weights; each takes len(rows) / steps batches, dealt to the processes in turn."""


def order(
    stage: Stage,
    own: Sequence[int],
    rehearsed: Sequence[int],
    groups: Sequence[int],
    processes: int,
) -> Order:
    """The batches of a stage.

    Args:
        stage: what is trained.
        own: tokens of each of the stage's examples that are used.
        rehearsed: tokens of each of its replay examples.
        groups: group number of each of the stage's examples; empty where it has none.
        processes: how many share each step.

    Raises:
        TrainingError: the groups cannot fill the steps.
    """
    each = stage.accumulation * processes
    if groups:
        return _grouped(stage, groups, each)
    fresh = stage.batch - (_replayed(stage) if rehearsed else 0)
    steps = stage.steps or math.ceil((stage.epochs or 0) * len(own) / (fresh * each))
    drawn = (
        batches(own, rehearsed, stage)
        if stage.order == "by_length"
        else shuffled(own, rehearsed, stage)
    )
    return Order(list(islice(drawn, steps * each)), steps)


def _replayed(stage: Stage) -> int:
    return round(stage.batch * stage.replay_share)


def batches(own: Sequence[int], rehearsed: Sequence[int], stage: Stage) -> Iterator[list[int]]:
    """Batches of examples of similar length, without end: `own` are lengths of the stage's examples, `rehearsed` of its replay.

    Replay examples are numbered after the stage's own. The same stage always gives the same batches.
    """
    share = _replayed(stage)
    draws = _draws(own, rehearsed, stage)
    lengths, mixed = [*own, *rehearsed], Random(f"order/{stage.seed}")
    while True:
        pools = [
            sorted((next(draw) for _ in range(count * POOL)), key=lengths.__getitem__)
            for draw, count in zip(draws, (stage.batch - share, share), strict=True)
        ]
        rows = [
            [
                index
                for pool in pools
                for index in pool[step * len(pool) // POOL : (step + 1) * len(pool) // POOL]
            ]
            for step in range(POOL)
        ]
        mixed.shuffle(rows)
        yield from rows


def shuffled(own: Sequence[int], rehearsed: Sequence[int], stage: Stage) -> Iterator[list[int]]:
    """Batches in random order, without end; the numbers are those of `batches`."""
    share = _replayed(stage)
    draws = _draws(own, rehearsed, stage)
    while True:
        yield [
            next(draw)
            for draw, count in zip(draws, (stage.batch - share, share), strict=True)
            for _ in range(count)
        ]


def _draws(own: Sequence[int], rehearsed: Sequence[int], stage: Stage) -> list[Iterator[int]]:
    return [
        _passes(range(len(own)), Random(f"own/{stage.seed}")),
        _passes(range(len(own), len(own) + len(rehearsed)), Random(f"replay/{stage.seed}")),
    ]


def _passes(indices: range, rng: Random) -> Iterator[int]:
    """The indices over and over, each pass in a new order."""
    while indices:
        yield from rng.sample(indices, len(indices))


def _grouped(stage: Stage, groups: Sequence[int], each: int) -> Order:
    from training.batching.group_sampler import GroupBlockSampler

    block = stage.batch * each
    sampler = GroupBlockSampler(groups, block, stage.seed, stage.leftover, stage.group_weights)
    if len(sampler) % block:
        raise TrainingError(
            f"an epoch of groups has {len(sampler)} examples, which is no multiple of {block}."
        )
    steps = stage.steps or math.ceil((stage.epochs or 0) * len(sampler) / block)

    def epoch(number: int) -> list[int]:
        sampler.set_epoch(number)
        return list(sampler)

    flat = chain.from_iterable(map(epoch, count()))
    return Order([list(islice(flat, stage.batch)) for _ in range(steps * each)], steps)


class Fixed(list[list[int]]):
    """Batches as accelerate deals them to several processes: it asks a batch sampler for these two."""

    def __init__(self, rows: Sequence[list[int]], batch_size: int) -> None:
        super().__init__(rows)
        self.batch_size, self.drop_last = batch_size, False


def collate(rows: Sequence[Encoded], pad: int) -> dict[str, Any]:
    """Rows padded on the right to the longest; labels are -100, which the loss ignores, wherever nothing is supervised.

    Returns:
        input_ids, attention_mask and labels, int64 of shape (rows, longest).
    """
    import torch

    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), -100)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids[index, :length] = torch.tensor(row.ids)
        mask[index, :length] = 1
        labels[index, :length] = torch.tensor(row.ids).masked_fill(
            ~torch.tensor(row.supervised), -100
        )
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
