"""iso_cts by numbers written out, and by its laws."""

import pytest
import torch


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_with_all_in_common_it_is_iso_c(combine):
    stack = random(3, 7, 11).tolist()
    torch.testing.assert_close(combine("iso_cts", stack, common=1.0), combine("iso_c", stack))


def test_the_weakest_common_direction_gives_way_to_a_tasks_own(combine, close):
    """Σ = diag(5, 1, 1): of rank 3 at common 0.4, ⌊1.2⌋ = 1 is common, axis 0, and each of two tasks has one of its own."""
    one = [[3.0, 0, 0], [0, 1.0, 0], [0, 0, 0]]
    other = [[2.0, 0, 0], [0, 0, 0], [0, 0, 1.0]]
    mean = (5 + 1 + 1) / 3
    close(combine("iso_cts", [one, other], common=0.4), [[mean, 0, 0], [0, mean, 0], [0, 0, mean]])


@pytest.mark.parametrize("common", [0.0, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
def test_all_singular_values_are_equal(combine, common, tasks):
    sizes = torch.linalg.svdvals(combine("iso_cts", random(tasks, 7, 11).tolist(), common=common))
    assert sizes.max() - sizes.min() < 1e-9 * sizes.max()


def test_a_part_that_rounds_past_the_rank_is_cut(combine):
    """Two directions, five tasks: 0.4 of one each rounds to none; three tasks: 0.67 rounds to one, three of two."""
    for tasks in (3, 5):
        assert torch.isfinite(combine("iso_cts", random(tasks, 2, 3).tolist(), common=0.0)).all()


def test_what_has_no_singular_vectors_is_averaged(combine, close):
    close(combine("iso_cts", [[4.0, 2.0], [0.0, 1.0]]), [2, 1.5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_common_directions_hold_already_gives_a_task_no_direction(combine, dtype):
    """Two equal tasks diag(3, 0, 0): one common direction, none of their own; mean(6, 0, 0) = 2."""
    line = torch.zeros(3, 3)
    line[0, 0] = 3
    found = combine("iso_cts", [line.tolist()] * 2, common=0.4, dtype=dtype)
    torch.testing.assert_close(found, (line * (2 / 3)).to(dtype))
