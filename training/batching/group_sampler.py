"""CommonIT's batches: an order of examples in which every optimiser step comes from one group.

The sampler gives single indices, not batches. Each run of `block` indices, with

    block = examples per device × accumulation × processes,

is of one group, and accelerate deals this one order to its processes in batches, by turns: so a step is of one group,
whatever the accumulation and the number of processes. The order of an epoch follows from (seed, epoch) alone. So every
process has the same one without asking the others, and a run that is resumed goes on in it.

CommonIT (arXiv 2410.03077) cuts shuffled groups into blocks and draws the blocks at random. Its released code loses the
rest of every group in each epoch, and a group smaller than a block for good; here the rest is
completed, mixed, or declared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from training.batching.group_blocks import Leftover, Report, natural, weighted
from training.errors import TrainingError

Indices = NDArray[np.int64]


class GroupBlockSampler(Sampler[int]):
    """Indices of all examples, block after block, each block of one group, in an order of its own in each epoch.

    Of a group of n examples, shuffled, the last n mod block do not fill a block. `leftover` says what becomes of them:

    - "fill": the block is completed with other examples of the group, which come twice. A group smaller than a block
      comes as often as it takes. Nothing is lost.
    - "drop": they are left out of this epoch; in another epoch they are others. A group smaller than a block would be
      lost and is refused.
    - "mix": those of all groups together make mixed blocks, the last completed with examples of other blocks.

    Worked example: groups of 7 and 5 examples and blocks of 4. "fill" gives 2 + 2 blocks, 1 + 3 examples twice; "drop"
    1 + 1 blocks without 3 + 1 examples; "mix" 1 + 1 blocks and a mixed one of the other 3 + 1 examples.

    Args:
        groups: per example the number of its group, from 0; each number up to the highest occurs.
        block: examples of one optimiser step on all devices.
        seed: of every epoch's order, 0 or more.
        leftover: see above.
        weights: per group its share of the blocks of an epoch, in any unit; 0 leaves a group out. The epoch is as long
            as without weights, and its blocks are shared out by largest remainders, the same in each
            epoch. A group with more blocks than it fills starts again, newly shuffled, when all its examples have come;
            of one with fewer other examples come in each epoch. Only with "fill": nothing is left over.
        labels: names of the groups, for messages.

    Raises:
        TrainingError: an empty group, fewer examples than a block, groups that "drop" would lose or of which "mix"
            would leave nothing but mixed blocks, weights that cannot be met; with the numbers.
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
        self._report = natural(sizes, block, leftover, names)
        if weights is not None:
            self._report = weighted(self._report, weights, leftover)
        self.block, self.seed, self.leftover, self._epoch = block, seed, leftover, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order the next iteration gives.

        accelerate's loaders call it, but not when several processes resume in the middle of an epoch: the sampler then
        stands under three wrappers, and the call reaches two (transformers 5.23, accelerate 1.15). Whoever hands the
        sampler to a trainer sets the epoch as each begins; training/batching/order.py lists all epochs beforehand instead.
        """
        if epoch < 0:
            raise TrainingError(f"epoch is {epoch}; expected 0 or more.")
        self._epoch = epoch

    def report(self) -> Report:
        """What an epoch holds: blocks per group, what comes twice, is left out or mixed; the same in every epoch."""
        return self._report

    def __len__(self) -> int:
        """Indices of one epoch, a multiple of `block`."""
        return self._report.blocks * self.block

    def __iter__(self) -> Iterator[int]:
        for row in self._rows(self._epoch):
            yield from row.tolist()

    def _rows(self, epoch: int) -> Indices:
        """(blocks, block): the order of an epoch."""
        draw = np.random.default_rng([self.seed, epoch])
        rows, rests = [], []
        for members, facts in zip(self._members, self._report.groups, strict=True):
            drawn, rest = _draw(draw, members, facts.blocks, self.block)
            rows.append(drawn)
            rests.append(rest)
        whole = np.concatenate(rows)
        if self._report.mixed:
            whole = np.concatenate([whole, _mixed(draw, np.concatenate(rests), whole)])
        return draw.permutation(whole)


def _members(groups: Sequence[int], labels: Sequence[str]) -> list[Indices]:
    """Per group the indices of its examples, rising."""
    given = np.asarray(groups)
    if not given.size:
        raise TrainingError("there are no examples to sample from. Give at least one block.")
    if given.ndim != 1 or given.dtype.kind not in "iu" or given.min() < 0:
        raise TrainingError(
            f"groups must be one whole number from 0 per example, got {given[:3].tolist()} and so on."
        )
    count = max(int(given.max()) + 1, len(labels))
    if labels and count > len(labels):
        raise TrainingError(
            f"there are groups up to number {count - 1} and {len(labels)} labels. Name every group."
        )
    sizes = np.bincount(given, minlength=count)
    if empty := np.flatnonzero(sizes == 0).tolist():
        named = ", ".join(repr(labels[number]) if labels else str(number) for number in empty[:5])
        raise TrainingError(
            f"{len(empty)} of {count} groups have no examples: {named}. Leave them out and number the others anew."
        )
    return np.split(np.argsort(given, kind="stable"), np.cumsum(sizes)[:-1])


def _draw(
    draw: np.random.Generator, members: Indices, count: int, block: int
) -> tuple[Indices, Indices]:
    """(count, block) of one group, in as many shuffled passes as it takes, and what is left of the last pass."""
    passes = []
    while count > 0:
        order = draw.permutation(members)
        fits = min(count, -(-len(members) // block))
        # Cyclic: what completes the last block stands in the first ones, so no block holds an example twice that need not.
        passes.append(np.resize(order, fits * block))
        count -= fits
        rest = order[fits * block :]
    if not passes:
        return np.empty((0, block), dtype=np.int64), draw.permutation(members)
    return np.concatenate(passes).reshape(-1, block), rest


def _mixed(draw: np.random.Generator, rests: Indices, whole: Indices) -> Indices:
    """Blocks of what the groups left, the last completed with examples that are not in it."""
    block = whole.shape[1]
    rests = draw.permutation(rests)
    short = -len(rests) % block
    others = (
        rests[:short]
        if len(rests) >= block
        else draw.choice(whole.reshape(-1), short, replace=False)
    )
    return np.concatenate([rests, others]).reshape(-1, block)
