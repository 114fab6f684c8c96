"""Lists the batches of a whole run, from the first step to the last, and pads a batch.

The list is made before the first step and depends on the stage alone. So a resumed run skips the
batches that are done, the end of a pass needs no special treatment, and every process knows the
whole order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, count, islice, takewhile
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from corpus.tokens import Encoded
from training.errors import TrainingError
from training.stage import Stage

if TYPE_CHECKING:
    from training.batching.group_sampler import GroupBlockSampler

POOL = 16
"""Number of batches that are drawn together and sorted by length.

This gives less padding, and still a new order in every pass.
"""


class Order(NamedTuple):
    """The batches of a run, in the order in which they are computed."""

    rows: list[list[int]]
    """The example numbers of each batch. Replay examples are numbered after the stage's own."""
    steps: int
    """Number of updates of the weights.

    Each takes len(rows) / steps batches, which are dealt to the processes in turn.
    """


def order(
    stage: Stage,
    own: Sequence[int],
    rehearsed: Sequence[int],
    groups: Sequence[int],
    processes: int,
) -> Order:
    """Returns all batches of a stage.

    Args:
        stage: the stage that is trained.
        own: number of tokens of each of the stage's examples that are used.
        rehearsed: number of tokens of each replay example that is used.
        groups: group number of each of the stage's examples; empty if the stage has no groups.
        processes: number of processes that share each step.

    Raises:
        TrainingError: the groups cannot fill the steps.
    """
    batches_per_step = stage.accumulation * processes
    if groups:
        return _grouped_order(stage, groups, batches_per_step)
    # `epochs` counts passes over the stage's own examples, so replay does not shorten them.
    fresh = stage.batch - (_replay_count(stage) if rehearsed else 0)
    steps = stage.steps or math.ceil((stage.epochs or 0) * len(own) / (fresh * batches_per_step))
    drawn = (
        batches_by_length(own, rehearsed, stage)
        if stage.order == "by_length"
        else shuffled_batches(own, rehearsed, stage)
    )
    return Order(list(islice(drawn, steps * batches_per_step)), steps)


def pass_ends(
    stage: Stage, own: int, groups: Sequence[int], processes: int, steps: int
) -> list[int]:
    """Returns the update at which each complete pass over a stage's own examples ends.

    A pass that ends within an update ends with this update.

    Args:
        stage: the stage.
        own: number of its own examples that are used.
        groups: as in `order`.
        processes: as in `order`.
        steps: number of updates of the run.
    """
    batches_per_step = stage.accumulation * processes
    if groups:
        sampler = _sampler(stage, groups, batches_per_step)
        examples, per_step = len(sampler), sampler.block
    else:
        examples, per_step = own, (stage.batch - _replay_count(stage)) * batches_per_step
    ends = (-(-number * examples // per_step) for number in count(1))
    return list(takewhile(lambda end: end <= steps, ends))


def _replay_count(stage: Stage) -> int:
    """Returns the number of replay examples of a batch."""
    return round(stage.batch * stage.replay_share)


def batches_by_length(
    own: Sequence[int], rehearsed: Sequence[int], stage: Stage
) -> Iterator[list[int]]:
    """Yields batches of examples of similar length, without end.

    Replay examples are numbered after the stage's own. The same stage always gives the same
    batches.

    Args:
        own: number of tokens of each of the stage's examples.
        rehearsed: number of tokens of each replay example.
        stage: gives the batch size, the share of replay and the seed.
    """
    share = _replay_count(stage)
    draws = _draws(own, rehearsed, stage)
    lengths, rng = [*own, *rehearsed], Random(f"order/{stage.seed}")
    while True:
        # Own and replay examples are sorted apart, so that every batch keeps its share of replay.
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
        # Otherwise the batches would come in order of length, short examples always first.
        rng.shuffle(rows)
        yield from rows


def shuffled_batches(
    own: Sequence[int], rehearsed: Sequence[int], stage: Stage
) -> Iterator[list[int]]:
    """Yields batches of randomly drawn examples, without end; see `batches_by_length`."""
    share = _replay_count(stage)
    draws = _draws(own, rehearsed, stage)
    while True:
        yield [
            next(draw)
            for draw, count in zip(draws, (stage.batch - share, share), strict=True)
            for _ in range(count)
        ]


def _draws(own: Sequence[int], rehearsed: Sequence[int], stage: Stage) -> list[Iterator[int]]:
    """Returns the endless draws of own examples and of replay examples."""
    return [
        # Two generators, so that replay does not change the order of the stage's own examples.
        passes(range(len(own)), Random(f"own/{stage.seed}")),
        passes(range(len(own), len(own) + len(rehearsed)), Random(f"replay/{stage.seed}")),
    ]


def passes(indices: range, rng: Random) -> Iterator[int]:
    """Yields all indices again and again, each pass in a new order."""
    while indices:
        yield from rng.sample(indices, len(indices))


def _grouped_order(stage: Stage, groups: Sequence[int], batches_per_step: int) -> Order:
    """Returns the batches of a stage whose every step comes from one group."""
    sampler = _sampler(stage, groups, batches_per_step)
    block = sampler.block
    if len(sampler) % block:
        raise TrainingError(
            f"an epoch of groups has {len(sampler)} examples, which is no multiple of {block}."
        )
    steps = stage.steps or math.ceil((stage.epochs or 0) * len(sampler) / block)

    # The epoch is set here, because accelerate does not always reach a sampler that a trainer has;
    # see GroupBlockSampler.set_epoch.
    def epoch(number: int) -> list[int]:
        sampler.set_epoch(number)
        return list(sampler)

    flat = chain.from_iterable(map(epoch, count()))
    rows = [list(islice(flat, stage.batch)) for _ in range(steps * batches_per_step)]
    return Order(rows, steps)


def _sampler(stage: Stage, groups: Sequence[int], batches_per_step: int) -> GroupBlockSampler:
    from training.batching.group_sampler import GroupBlockSampler

    block = stage.batch * batches_per_step
    return GroupBlockSampler(groups, block, stage.seed, stage.leftover, stage.group_weights)


class FixedBatches(list[list[int]]):
    """A list of batches that accelerate accepts as a batch sampler."""

    def __init__(self, rows: Sequence[list[int]], batch_size: int) -> None:
        super().__init__(rows)
        # accelerate reads these two attributes when it deals batches to several processes.
        self.batch_size, self.drop_last = batch_size, False


def collate(rows: Sequence[Encoded], pad: int) -> dict[str, Any]:
    """Pads the rows on the right to the longest and makes a batch of them.

    Args:
        rows: encoded examples.
        pad: token to pad with.

    Returns:
        input_ids, attention_mask and labels, int64 of shape (rows, longest). A label is -100,
        which the loss ignores, at every position that is not supervised.
    """
    import torch

    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), -100)
    # If the tokenizer has no padding token, `pad` is an ordinary one, so the model cannot tell
    # padding by its number.
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        length = len(row.ids)
        tokens = torch.from_numpy(row.ids)
        ids[index, :length] = tokens
        mask[index, :length] = 1
        labels[index, :length] = tokens.masked_fill(~torch.from_numpy(row.supervised), -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
