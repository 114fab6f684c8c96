"""How many blocks of one group an epoch has, and what comes twice, is left out, or is mixed: the sampler's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from training.errors import TrainingError

Leftover = Literal["fill", "drop", "mix"]
LEFTOVERS = ("fill", "drop", "mix")


class Share(NamedTuple):
    """What one epoch holds of one group."""

    label: str
    examples: int
    """Of the group."""
    blocks: int
    """Of this group alone."""
    repeated: int
    """Places in these blocks that hold an example again."""
    unused: int
    """Examples that the epoch does not hold; other ones in another epoch."""


@dataclass(frozen=True)
class Report:
    """What one epoch holds."""

    block: int
    """Examples per block."""
    groups: tuple[Share, ...]
    mixed: int = 0
    """Blocks of several groups."""
    mixed_repeated: int = 0
    """Places in mixed blocks that hold an example again."""

    @property
    def blocks(self) -> int:
        """Blocks, that is optimiser steps, of an epoch."""
        return sum(share.blocks for share in self.groups) + self.mixed

    @property
    def repeated(self) -> int:
        """Places that hold an example again."""
        return sum(share.repeated for share in self.groups) + self.mixed_repeated

    @property
    def unused(self) -> int:
        """Examples that an epoch does not hold."""
        return sum(share.unused for share in self.groups)

    @property
    def mixed_share(self) -> float:
        """Mixed blocks of all blocks."""
        return self.mixed / self.blocks

    def __str__(self) -> str:
        examples, places = sum(share.examples for share in self.groups), self.blocks * self.block
        return (
            f"{self.blocks} blocks of {self.block} from {examples} examples in {len(self.groups)} groups: "
            f"{self.repeated} of {places} places repeat an example ({self.repeated / places:.1%}), "
            f"{self.unused} examples are not used ({self.unused / examples:.1%}), "
            f"{self.mixed} blocks are mixed ({self.mixed_share:.1%})"
        )


def natural(sizes: Sequence[int], block: int, leftover: Leftover, names: Sequence[str]) -> Report:
    """Each group as often as it fills blocks.

    Args:
        sizes: examples per group, each at least 1.
        block: examples per block.
        leftover: as in sampler.GroupBlockSampler.
        names: of the groups.

    Raises:
        TrainingError: see sampler.GroupBlockSampler.
    """
    if leftover not in LEFTOVERS:
        raise TrainingError(f'leftover is "{leftover}"; expected "fill", "drop" or "mix".')
    if block < 1:
        raise TrainingError(
            f"block is {block}; expected examples per device × accumulation × processes, at least 1."
        )
    if sum(sizes) < block:
        raise TrainingError(
            f"{sum(sizes)} examples do not make one block of {block} (examples per device × accumulation × processes). "
            "Give more examples, or a smaller batch or accumulation."
        )
    small = [f"{name!r} ({size})" for name, size in zip(names, sizes, strict=True) if size < block]
    if leftover == "drop" and small:
        raise TrainingError(
            f'leftover is "drop", and {len(small)} of {len(sizes)} groups have fewer examples than a block of {block}, so '
            f"that all of them would be lost: {', '.join(small[:5])}. Fill or mix, take fewer groups or a smaller batch."
        )
    if leftover == "mix" and len(small) == len(sizes):
        raise TrainingError(
            f'leftover is "mix", and none of {len(sizes)} groups has as many examples as a block of {block} (the largest '
            f"has {max(sizes)}), so that every block would be mixed. Fill, take fewer groups or a smaller batch."
        )
    if leftover == "fill":
        counts = [-(-size // block) for size in sizes]
        return Report(
            block, tuple(_share(*each, block) for each in zip(names, sizes, counts, strict=True))
        )
    shares = [
        Share(name, size, size // block, 0, size % block)
        for name, size in zip(names, sizes, strict=True)
    ]
    if leftover == "drop":
        return Report(block, tuple(shares))
    rest = sum(share.unused for share in shares)
    return Report(
        block, tuple(share._replace(unused=0) for share in shares), -(-rest // block), -rest % block
    )


def weighted(report: Report, weights: Sequence[float], leftover: Leftover) -> Report:
    """The same number of blocks, shared out in proportion to weights by largest remainders; the lower group first at ties.

    Worked example: 10 blocks by weights 1, 1, 1 are 4, 3, 3.

    Raises:
        TrainingError: see sampler.GroupBlockSampler.
    """
    groups = report.groups
    if leftover != "fill":
        raise TrainingError(
            f'leftover is "{leftover}" and there are weights, which give each group its number of blocks, so that nothing '
            'is left over. Use leftover="fill".'
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
    by_remainder = sorted(
        range(len(exact)), key=lambda number: (round(counts[number] - exact[number], 9), number)
    )
    for number in by_remainder[: report.blocks - sum(counts)]:
        counts[number] += 1
    for share, weight, value, count in zip(groups, weights, exact, counts, strict=True):
        if weight and not count:
            raise TrainingError(
                f"group {share.label!r} has weight {weight:g} of {sum(weights):g}, which is {value:.2g} of the "
                f"{report.blocks} blocks of an epoch: it would never be drawn. Raise its weight, set it to 0, or make "
                f"the block of {report.block} smaller."
            )
    shares = [
        _share(share.label, share.examples, count, report.block)
        for share, count in zip(groups, counts, strict=True)
    ]
    return replace(report, groups=tuple(shares))


def _share(label: str, examples: int, blocks: int, block: int) -> Share:
    """A group in so many blocks, none of which repeats an example before all have come."""
    places = blocks * block
    return Share(label, examples, blocks, max(0, places - examples), max(0, examples - places))
