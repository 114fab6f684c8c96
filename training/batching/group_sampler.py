"""CommonIT's batches: an order of examples in which every optimiser step comes from one group.

The sampler returns single indices, not batches. Each block of consecutive indices, with

    block = examples per device × accumulation × processes,

comes from one group. accelerate deals this order to its processes in batches, by turns. So a step
comes from one group, whatever the accumulation and the number of processes. The order of an epoch
follows from (seed, epoch) alone: every process computes the same one without communication, and a
resumed run continues in it.

CommonIT (arXiv 2410.03077) cuts shuffled groups into blocks and draws the blocks at random. Its
released code loses the rest of every group in each epoch, and always loses a group that is smaller
than a block. Here the rest is completed, mixed, or dropped with a count in the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from training.batching.group_blocks import EpochBlocks, Leftover, count_blocks, distribute_blocks
from training.errors import TrainingError

Indices = NDArray[np.int64]


class GroupBlockSampler(Sampler[int]):
    """Iterates over the indices of all examples in blocks of one group each.

    Every epoch has another order. Of a shuffled group of n examples, the last n mod block do not
    fill a block. `leftover` says what happens to them:

    - "fill": other examples of the group complete the block and so come twice. A group smaller
      than a block is repeated until it fills one. Nothing is lost.
    - "drop": this epoch leaves them out; another epoch leaves out other examples. A group smaller
      than a block would be lost and is refused.
    - "mix": the leftover examples of all groups form mixed blocks. Examples of other blocks
      complete the last mixed block.

    Worked example: groups of 7 and 5 examples and blocks of 4. "fill" gives 2 + 2 blocks, with
    1 + 3 examples twice. "drop" gives 1 + 1 blocks, without 3 + 1 examples. "mix" gives 1 + 1
    blocks and one mixed block of the other 3 + 1 examples.

    Args:
        groups: the group number of each example, from 0; each number up to the highest occurs.
        block: number of examples of one optimiser step on all devices.
        seed: seed of the order of every epoch, 0 or more.
        leftover: see above.
        weights: each group's share of the blocks of an epoch, in any unit; 0 leaves a group out.
            The epoch is as long as without weights. Its blocks are distributed by largest
            remainders, in the same way in each epoch. A group with more blocks than it fills
            starts again, newly shuffled, when all its examples have come. A group with fewer
            blocks brings other examples in each epoch. Only with "fill", because nothing is left
            over.
        labels: names of the groups, for messages.

    Raises:
        TrainingError: a group is empty, there are fewer examples than a block, "drop" would lose a
            whole group, "mix" would leave mixed blocks only, or the weights cannot be met. The
            message gives the numbers.
    """

    def __init__(
        self,
        groups: Sequence[int],
        block: int,
        seed: int,
        leftover: Leftover = "fill",
        weights: Sequence[float] | None = None,
        *,
        labels: Sequence[str] = (),
    ) -> None:
        if seed < 0:
            raise TrainingError(f"seed is {seed}; expected 0 or more.")
        self._members = _members(groups, labels)
        sizes = [len(members) for members in self._members]
        names = list(labels) or [str(number) for number in range(len(sizes))]
        self._report = count_blocks(sizes, block, leftover, names)
        if weights is not None:
            self._report = distribute_blocks(self._report, weights, leftover)
        self.block, self.seed, self.leftover, self._epoch = block, seed, leftover, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, counted from 0, whose order the next iteration returns.

        accelerate's loaders call this method, but not when several processes resume in the middle
        of an epoch: the sampler is then inside three wrappers, and the call reaches two of them
        (transformers 5.23, accelerate 1.15). A caller that gives the sampler to a trainer must set
        the epoch at the start of each; training/batching/order.py lists all epochs in advance
        instead.

        Raises:
            TrainingError: the epoch is below 0.
        """
        if epoch < 0:
            raise TrainingError(f"epoch is {epoch}; expected 0 or more.")
        self._epoch = epoch

    def report(self) -> EpochBlocks:
        """Returns the counts of an epoch, which are the same in every epoch."""
        return self._report

    def __len__(self) -> int:
        """Number of indices of one epoch, a multiple of `block`."""
        return self._report.blocks * self.block

    def __iter__(self) -> Iterator[int]:
        for row in self._rows(self._epoch):
            yield from row.tolist()

    def _rows(self, epoch: int) -> Indices:
        """Returns the order of an epoch: indices of shape (blocks, block)."""
        rng = np.random.default_rng([self.seed, epoch])
        rows, leftovers = [], []
        for members, share in zip(self._members, self._report.groups, strict=True):
            drawn, leftover = _draw_blocks(rng, members, share.blocks, self.block)
            rows.append(drawn)
            leftovers.append(leftover)
        whole = np.concatenate(rows)
        if self._report.mixed:
            whole = np.concatenate([whole, _mixed_blocks(rng, np.concatenate(leftovers), whole)])
        # Whole rows are permuted, so a block stays in one group.
        return rng.permutation(whole)


def _members(groups: Sequence[int], labels: Sequence[str]) -> list[Indices]:
    """Returns the indices of each group's examples, in ascending order."""
    numbers = np.asarray(groups)
    if not numbers.size:
        raise TrainingError("there are no examples to sample from. Give at least one block.")
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or numbers.min() < 0:
        raise TrainingError(
            "groups must be one whole number from 0 per example, "
            f"got {numbers[:3].tolist()} and so on."
        )
    count = max(int(numbers.max()) + 1, len(labels))
    if labels and count > len(labels):
        raise TrainingError(
            f"there are groups up to number {count - 1} and {len(labels)} labels. Name every group."
        )
    sizes = np.bincount(numbers, minlength=count)
    if empty := np.flatnonzero(sizes == 0).tolist():
        names = ", ".join(repr(labels[number]) if labels else str(number) for number in empty[:5])
        raise TrainingError(
            f"{len(empty)} of {count} groups have no examples: {names}. "
            "Leave them out and number the others anew."
        )
    # Stable, so that the order of an epoch is the same in every release of numpy: a resumed run
    # continues in the order in which it began.
    return np.split(np.argsort(numbers, kind="stable"), np.cumsum(sizes)[:-1])


def _draw_blocks(
    rng: np.random.Generator, members: Indices, count: int, block: int
) -> tuple[Indices, Indices]:
    """Draws `count` blocks of one group, in as many shuffled passes as that takes.

    Returns:
        Indices of shape (count, block), and the members that the last pass did not use.
    """
    passes = []
    while count > 0:
        order = rng.permutation(members)
        fits = min(count, -(-len(members) // block))
        # np.resize repeats the order from its beginning. So the last block is completed by
        # examples of the first ones, and no block of a large enough group holds an example twice.
        passes.append(np.resize(order, fits * block))
        count -= fits
        leftover = order[fits * block :]
    if not passes:
        return np.empty((0, block), dtype=np.int64), rng.permutation(members)
    return np.concatenate(passes).reshape(-1, block), leftover


def _mixed_blocks(rng: np.random.Generator, leftovers: Indices, whole: Indices) -> Indices:
    """Cuts the groups' leftover examples into blocks; no example comes twice in one block.

    Args:
        rng: draws the order.
        leftovers: indices of the leftover examples of all groups.
        whole: indices of the other blocks, of shape (blocks, block).
    """
    block = whole.shape[1]
    leftovers = rng.permutation(leftovers)
    short = -len(leftovers) % block
    # The first leftovers are in another block than the last ones, so none comes twice in a block.
    others = (
        leftovers[:short]
        if len(leftovers) >= block
        else rng.choice(whole.reshape(-1), short, replace=False)
    )
    return np.concatenate([leftovers, others]).reshape(-1, block)
