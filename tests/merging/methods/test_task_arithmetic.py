"""task_arithmetic by numbers written out, and by its laws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merging.methods import _sums, task_arithmetic
from merging.methods._values import Site

SITE = Site("w", torch.zeros(2))
TWO = torch.tensor([[1.0, 2.0], [4.0, 0.0]])
small = st.integers(-64, 64).map(lambda eighths: eighths / 8)


@pytest.mark.parametrize(
    ("omegas", "parameters", "expected"),
    [
        ((0.5, -1.0), {}, [-3.5, 1.0]),
        ((0.5, -1.0), {"lambda_": 2.0}, [-7.0, 2.0]),
        ((1.0, 3.0), {"normalize": True}, [3.25, 0.5]),
        ((1.0, 3.0), {"normalize": True, "lambda_": 4.0}, [13.0, 2.0]),
    ],
)
def test_worked_examples(omegas, parameters, expected):
    assert (
        task_arithmetic.combine(TWO.clone(), torch.tensor(omegas), SITE, **parameters).tolist()
        == expected
    )


@given(st.lists(st.tuples(small, small), min_size=1, max_size=5), small)
def test_is_linear_in_omega(rows, factor):
    """Eighths below 8 multiply and add without rounding, so that the law holds exactly."""
    deltas = torch.tensor([[delta] for delta, _ in rows])
    omegas = torch.tensor([omega for _, omega in rows])
    once = task_arithmetic.combine(deltas.clone(), omegas, SITE)
    assert torch.equal(task_arithmetic.combine(deltas, factor * omegas, SITE), factor * once)
    assert once.item() == sum(delta * omega for delta, omega in rows)


def test_the_order_of_the_sum_is_the_order_given():
    """1e8 + 1 − 1e8 loses the 1 in float32; 1e8 − 1e8 + 1 keeps it. The sum runs from the first vector to the last."""
    stack = torch.tensor([[1e8], [1.0], [-1e8]])
    assert task_arithmetic.combine(stack.clone(), torch.ones(3), SITE).item() == 0.0
    assert task_arithmetic.combine(stack[[0, 2, 1]], torch.ones(3), SITE).item() == 1.0


def test_products_are_rounded_before_they_are_added():
    """(1 + 2⁻²³)·(1 − 2⁻²³) is 1 − 2⁻⁴⁶: rounded by itself it is 1; a fused multiply-add would leave −2⁻⁴⁶."""
    tick = 2.0**-23
    stack = torch.tensor([[-1.0] * 40, [1.0 + tick] * 40])
    assert (
        task_arithmetic.combine(stack, torch.tensor([1.0, 1.0 - tick]), SITE).tolist() == [0.0] * 40
    )


def test_a_sum_takes_no_memory_but_the_stack_and_leaves_it_only_where_asked():
    stack, omegas = TWO.clone(), torch.tensor([2.0, 3.0])
    kept = _sums.weighted_sum(stack, omegas, keep=True)
    assert torch.equal(stack, TWO) and kept.tolist() == [14.0, 4.0]
    total = _sums.weighted_sum(stack, omegas)
    assert (
        total.data_ptr() == stack.data_ptr()
        and torch.equal(total, kept)
        and omegas.tolist() == [2.0, 3.0]
    )
