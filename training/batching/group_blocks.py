"""Counts how many blocks of each group an epoch has: the arithmetic of the group sampler.

A block is the examples of one optimiser step on all devices. The counts also say how many examples
come twice, are left out, or are in blocks of several groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from training.errors import TrainingError

Leftover = Literal["fill", "drop", "mix"]
LEFTOVERS = ("fill", "drop", "mix")


class Share(NamedTuple):
    """One group's share of an epoch."""

    label: str
    examples: int
    """Number of examples that the group has."""
    blocks: int
    """Number of blocks that hold this group alone."""
    repeated: int
    """Number of places in these blocks that hold an example for the second time or more."""
    unused: int
    """Number of examples that the epoch leaves out; each epoch leaves out other ones."""


@dataclass(frozen=True)
class EpochBlocks:
    """The blocks of one epoch, counted by group."""

    block: int
    """Number of examples per block."""
    groups: tuple[Share, ...]
    mixed: int = 0
    """Number of blocks that hold several groups."""
    mixed_repeated: int = 0
    """Number of places in mixed blocks that hold an example for the second time or more."""

    @property
    def blocks(self) -> int:
        """Number of blocks of an epoch, which is its number of optimiser steps."""
        return sum(share.blocks for share in self.groups) + self.mixed

    @property
    def repeated(self) -> int:
        """Number of places that hold an example for the second time or more."""
        return sum(share.repeated for share in self.groups) + self.mixed_repeated

    @property
    def unused(self) -> int:
        """Number of examples that an epoch leaves out."""
        return sum(share.unused for share in self.groups)

    @property
    def mixed_share(self) -> float:
        """Share of mixed blocks among all blocks, 0 to 1."""
        return self.mixed / self.blocks

    def __str__(self) -> str:
        examples, places = sum(share.examples for share in self.groups), self.blocks * self.block
        return (
            f"{self.blocks} blocks of {self.block} from {examples} examples "
            f"in {len(self.groups)} groups: "
            f"{self.repeated} of {places} places repeat an example ({self.repeated / places:.1%}), "
            f"{self.unused} examples are not used ({self.unused / examples:.1%}), "
            f"{self.mixed} blocks are mixed ({self.mixed_share:.1%})"
        )


def count_blocks(
    sizes: Sequence[int], block: int, leftover: Leftover, names: Sequence[str]
) -> EpochBlocks:
    """Counts the blocks of an epoch without weights: each group has as many as its examples fill.

    Args:
        sizes: number of examples of each group, at least 1.
        block: number of examples per block.
        leftover: see group_sampler.GroupBlockSampler.
        names: names of the groups, for messages.

    Raises:
        TrainingError: there are fewer examples than a block, "drop" would lose a whole group, or
            "mix" would leave mixed blocks only.
    """
    if leftover not in LEFTOVERS:
        raise TrainingError(f'leftover is "{leftover}"; expected "fill", "drop" or "mix".')
    if block < 1:
        raise TrainingError(
            f"block is {block}; "
            "expected examples per device × accumulation × processes, at least 1."
        )
    if sum(sizes) < block:
        raise TrainingError(
            f"{sum(sizes)} examples do not make one block of {block} "
            "(examples per device × accumulation × processes). "
            "Give more examples, or a smaller batch or accumulation."
        )
    # CommonIT's released code loses such groups in silence: of groups of 5000, 300, 31 and 20
    # examples and batches of 8 on 4 devices it uses 4992, 288, 31 and 0 examples.
    small = [f"{name!r} ({size})" for name, size in zip(names, sizes, strict=True) if size < block]
    if leftover == "drop" and small:
        raise TrainingError(
            f'leftover is "drop", and {len(small)} of {len(sizes)} groups have fewer examples '
            f"than a block of {block}, so that all of them would be lost: {', '.join(small[:5])}. "
            'Use leftover="fill" or "mix", take fewer groups or a smaller batch.'
        )
    if leftover == "mix" and len(small) == len(sizes):
        raise TrainingError(
            f'leftover is "mix", and none of {len(sizes)} groups has as many examples as a block '
            f"of {block} (the largest has {max(sizes)}), so that every block would be mixed. "
            'Use leftover="fill", take fewer groups or a smaller batch.'
        )
    if leftover == "fill":
        counts = [-(-size // block) for size in sizes]
        return EpochBlocks(
            block, tuple(_share(*each, block) for each in zip(names, sizes, counts, strict=True))
        )
    shares = [
        Share(name, size, size // block, 0, size % block)
        for name, size in zip(names, sizes, strict=True)
    ]
    if leftover == "drop":
        return EpochBlocks(block, tuple(shares))
    # What the groups leave goes into mixed blocks, so no example is unused.
    rest = sum(share.unused for share in shares)
    return EpochBlocks(
        block, tuple(share._replace(unused=0) for share in shares), -(-rest // block), -rest % block
    )


def distribute_blocks(
    report: EpochBlocks, weights: Sequence[float], leftover: Leftover
) -> EpochBlocks:
    """Distributes the blocks of an epoch over the groups in proportion to weights.

    The number of blocks stays the same. The method is largest remainders; on a tie the group with
    the lower number comes first. Worked example: 10 blocks by weights 1, 1, 1 are 4, 3, 3.

    Args:
        report: the counts of `count_blocks`.
        weights: each group's weight, in any unit; 0 leaves a group out.
        leftover: must be "fill".

    Raises:
        TrainingError: `leftover` is not "fill", the weights are no valid numbers or not one per
            group, or a group with a weight above 0 would get no block.
    """
    groups = report.groups
    if leftover != "fill":
        raise TrainingError(
            f'leftover is "{leftover}" and there are weights, which give each group its number '
            'of blocks, so that nothing is left over. Use leftover="fill".'
        )
    if len(weights) != len(groups):
        raise TrainingError(
            f"there are {len(groups)} groups and {len(weights)} weights. Give one weight per group."
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise TrainingError(
            f"weights are {list(weights)}; expected numbers of 0 or more, one of them above 0."
        )
    exact = [report.blocks * weight / sum(weights) for weight in weights]
    counts = [math.floor(value) for value in exact]
    # Rounded to 9 digits, so that float errors do not decide a tie.
    by_remainder = sorted(
        range(len(exact)), key=lambda number: (round(counts[number] - exact[number], 9), number)
    )
    for number in by_remainder[: report.blocks - sum(counts)]:
        counts[number] += 1
    # A positive weight may round to no block. Nobody who gave it wants the group to be left out.
    for share, weight, value, count in zip(groups, weights, exact, counts, strict=True):
        if weight and not count:
            raise TrainingError(
                f"group {share.label!r} has weight {weight:g} of {sum(weights):g}, which is "
                f"{value:.2g} of the {report.blocks} blocks of an epoch: it would never be drawn. "
                f"Raise its weight, set it to 0, or make the block of {report.block} smaller."
            )
    shares = [
        _share(share.label, share.examples, count, report.block)
        for share, count in zip(groups, counts, strict=True)
    ]
    return replace(report, groups=tuple(shares))


def _share(label: str, examples: int, blocks: int, block: int) -> Share:
    """Counts a group in `blocks` blocks, where every example comes once before any comes twice."""
    places = blocks * block
    return Share(label, examples, blocks, max(0, places - examples), max(0, examples - places))
