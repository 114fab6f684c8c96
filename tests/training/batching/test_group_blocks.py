"""The arithmetic of blocks by hand, on the sizes that the paper's code loses, with weights; and what cannot be sampled."""

import numpy as np
import pytest

from training.batching.group_blocks import EpochBlocks, Share, count_blocks, distribute_blocks
from training.batching.group_sampler import GroupBlockSampler
from training.errors import TrainingError


class TestNatural:
    def test_by_hand(self):
        groups = [0] * 7 + [1] * 5
        fill, drop, mix = (
            GroupBlockSampler(groups, 4, 0, leftover).report()
            for leftover in ("fill", "drop", "mix")
        )
        assert fill == EpochBlocks(4, (Share("0", 7, 2, 1, 0), Share("1", 5, 2, 3, 0)))
        assert drop == EpochBlocks(4, (Share("0", 7, 1, 0, 3), Share("1", 5, 1, 0, 1)))
        assert mix == EpochBlocks(4, (Share("0", 7, 1, 0, 0), Share("1", 5, 1, 0, 0)), mixed=1)
        assert (fill.repeated, drop.unused, mix.mixed_share) == (4, 4, 1 / 3)
        assert str(drop) == (
            "2 blocks of 4 from 12 examples in 2 groups: 0 of 8 places repeat an example (0.0%), "
            "4 examples are not used (33.3%), 0 blocks are mixed (0.0%)"
        )

    def test_the_sizes_on_which_the_released_code_loses_a_group(self):
        """Groups of 5000, 300, 31, 20 and batches of 8 on 4 devices: it used 4992, 288, 31 and 0 of them."""
        sizes = (5000, 300, 31, 20)
        groups = np.repeat(range(4), sizes).tolist()
        report = GroupBlockSampler(groups, 32, 0).report()
        assert [share.unused for share in report.groups] == [0, 0, 0, 0]
        assert [share.blocks for share in report.groups] == [157, 10, 1, 1]
        assert [share.repeated for share in report.groups] == [24, 20, 1, 12]
        with pytest.raises(
            TrainingError, match=r"2 of 4 groups have fewer examples .* '2' \(31\), '3' \(20\)"
        ):
            GroupBlockSampler(groups, 32, 0, "drop")


class TestWeighted:
    def test_blocks_are_shared_out_by_largest_remainders(self):
        report = count_blocks([40, 40, 20], 10, "fill", "abc")
        assert [share.blocks for share in distribute_blocks(report, [1, 1, 1], "fill").groups] == [
            4,
            3,
            3,
        ]
        assert [
            share.blocks for share in distribute_blocks(report, [0.5, 0.3, 0.2], "fill").groups
        ] == [
            5,
            3,
            2,
        ]
        assert [
            share.blocks for share in distribute_blocks(report, [0, 0.25, 0.75], "fill").groups
        ] == [
            0,
            3,
            7,
        ]
        # 10 · 3/7 = 4.29, 10 · 2/7 = 2.86 twice: the two largest remainders are those of the others
        assert [share.blocks for share in distribute_blocks(report, [3, 2, 2], "fill").groups] == [
            4,
            3,
            3,
        ]

    @pytest.mark.parametrize(
        ("weights", "leftover", "words"),
        [
            ([1, 1], "drop", 'leftover is "drop" and there are weights'),
            ([1, 1], "mix", 'leftover is "mix" and there are weights'),
            ([1], "fill", "there are 2 groups and 1 weights"),
            ([1, -1], "fill", r"weights are \[1, -1\]; expected numbers of 0 or more"),
            ([0, 0], "fill", "one of them above 0"),
            ([1, float("nan")], "fill", "expected numbers of 0 or more"),
            (
                [99, 1],
                "fill",
                r"group 'b' has weight 1 of 100, which is 0.04 of the 4 blocks of an epoch",
            ),
        ],
    )
    def test_weights_that_cannot_be_met(self, weights, leftover, words):
        with pytest.raises(TrainingError, match=words):
            GroupBlockSampler([0] * 8 + [1] * 8, 4, 0, leftover, weights, labels=["a", "b"])


class TestRefusals:
    @pytest.mark.parametrize(
        ("groups", "block", "leftover", "labels", "words"),
        [
            ([], 4, "fill", (), "there are no examples to sample from"),
            ([0, 0, 2, 2], 2, "fill", (), "1 of 3 groups have no examples: 1. Leave them out"),
            ([0, 0, 1, 1], 2, "fill", ("a", "b", "c"), "1 of 3 groups have no examples: 'c'"),
            ([0, 1, 2, 2], 2, "fill", ("a", "b"), "groups up to number 2 and 2 labels"),
            ([0, 0, 1], 4, "fill", (), "3 examples do not make one block of 4"),
            (
                [0, 0, 0, 1],
                2,
                "drop",
                ("a", "b"),
                r"1 of 2 groups have fewer examples than a block of 2.*: 'b' \(1\)\.",
            ),
            (
                [0, 1, 2, 2],
                3,
                "mix",
                (),
                r"none of 3 groups has as many .* 3 \(the largest has 2\)",
            ),
            ([0, 0], 0, "fill", (), "block is 0; expected"),
            ([0, 0], 2, "pad", (), 'leftover is "pad"; expected "fill", "drop" or "mix"'),
            ([-1, 0], 2, "fill", (), r"one whole number from 0 per example, got \[-1, 0\]"),
            ([0.5, 1.0], 2, "fill", (), "one whole number from 0 per example"),
            ([[0], [1]], 2, "fill", (), "one whole number from 0 per example"),
        ],
    )
    def test_what_cannot_be_sampled(self, groups, block, leftover, labels, words):
        with pytest.raises(TrainingError, match=words):
            GroupBlockSampler(groups, block, 0, leftover, labels=labels)
