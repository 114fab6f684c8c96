"""Which examples each step sees, and how a batch is padded."""

from collections import Counter
from dataclasses import replace
from itertools import chain, islice

import pytest

from corpus import Encoded
from training.batching.order import (
    FixedBatches,
    batches_by_length,
    collate,
    order,
    shuffled_batches,
)
from training.errors import TrainingError

LENGTHS = [3 + 7 * number % 11 for number in range(35)]


@pytest.mark.parametrize("draw", [batches_by_length, shuffled_batches])
def test_batches_hold_the_share_of_replay_and_come_again(stage, replay, draw):
    stage = replace(stage, replay=replay, replay_share=0.4)
    rows = list(islice(draw(LENGTHS, [3, 5, 4], stage), 33))
    assert rows == list(islice(draw(LENGTHS, [3, 5, 4], stage), 33))
    assert all(len(row) == 5 and sum(index >= 35 for index in row) == 2 for row in rows)
    assert {index for row in rows for index in row} == set(range(38))
    assert rows != list(islice(draw(LENGTHS, [3, 5, 4], replace(stage, seed=1)), 33))


@pytest.mark.parametrize("draw", [batches_by_length, shuffled_batches])
def test_every_example_is_seen_once_before_any_is_seen_twice(stage, draw):
    rows = list(islice(draw([1] * 80, [], stage), 16))
    assert sorted(index for row in rows for index in row) == list(range(80))


def test_batches_by_length_are_padded_less(stage):
    def padding(rows):
        return sum(
            max(LENGTHS[index] for index in row) * len(row) - sum(LENGTHS[index] for index in row)
            for row in rows
        )

    by_length, mixed = (
        list(islice(draw(LENGTHS, [], stage), 32)) for draw in (batches_by_length, shuffled_batches)
    )
    assert padding(by_length) < 0.4 * padding(mixed)


@pytest.mark.parametrize(
    ("epochs", "batch", "accumulation", "processes", "steps"),
    [
        (2, 5, 1, 1, 14),  # 70 / 5
        (1, 4, 1, 1, 9),  # 35 / 4, rounded up: one example of the next pass
        (3, 4, 2, 1, 14),  # 105 / 8
        (1, 4, 1, 2, 5),
        (0.5, 5, 1, 1, 4),
    ],
)
def test_epochs_in_steps(stage, epochs, batch, accumulation, processes, steps):
    stage = replace(stage, steps=None, epochs=epochs, batch=batch, accumulation=accumulation)
    rows, found = order(stage, LENGTHS, [], [], processes)
    assert found == steps
    assert len(rows) == steps * accumulation * processes
    often = Counter(index for row in rows for index in row)
    assert sum(often.values()) == steps * accumulation * processes * batch
    assert max(often.values()) - min(often[index] for index in range(35)) <= 1


def test_epochs_count_the_stages_own_examples(stage, replay):
    stage = replace(stage, steps=None, epochs=1, replay=replay, replay_share=0.4)
    assert order(stage, LENGTHS, [3, 5, 4], [], 1).steps == 12  # 35 / 3


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_every_step_comes_from_one_group(stage, accumulation, processes):
    """Process p computes batches p, p + W, …; a step is `accumulation` of them on each: a run of consecutive batches."""
    groups = [0] * 19 + [1] * 11 + [2] * 5
    stage = replace(stage, accumulation=accumulation, groups=tuple(groups), batch=2, steps=23)
    rows, steps = order(stage, LENGTHS, [], groups, processes)
    each = accumulation * processes
    assert (steps, len(rows)) == (23, 23 * each)
    homes = [
        {groups[index] for row in rows[at : at + each] for index in row}
        for at in range(0, len(rows), each)
    ]
    assert all(len(home) == 1 for home in homes)
    assert set().union(*homes) == {0, 1, 2}


def test_groups_are_ordered_anew_in_each_epoch_and_epochs_count_their_blocks(stage):
    groups = [0] * 21 + [1] * 14
    stage = replace(stage, groups=tuple(groups), batch=7, steps=None, epochs=2)
    rows, steps = order(stage, LENGTHS, [], groups, 1)
    assert steps == 10
    assert all(
        sorted(chain.from_iterable(epoch)) == list(range(35)) for epoch in (rows[:5], rows[5:])
    )
    assert rows[:5] != rows[5:]


def test_groups_that_cannot_fill_a_step_are_refused(stage):
    groups = [0] * 33 + [1] * 2
    stage = replace(stage, groups=tuple(groups), leftover="drop")
    with pytest.raises(TrainingError, match="2"):
        order(stage, LENGTHS, [], groups, 1)


def test_accelerate_finds_what_it_asks_a_batch_sampler_for():
    rows = FixedBatches([[1, 2], [3, 4]], 2)
    assert (rows.batch_size, rows.drop_last, len(rows), list(rows)) == (
        2,
        False,
        2,
        [[1, 2], [3, 4]],
    )


def test_collate_by_hand():
    rows = [Encoded.of([5, 6, 7], [False, True, True]), Encoded.of([8, 9], [False, True])]
    batch = collate(rows, pad=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [-100, 9, -100]]
