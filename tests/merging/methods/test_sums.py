"""Sums over a stack against a plain loop, at chunks of any size."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merging.methods import _edits, _sums

small = st.integers(-3, 3).map(float)


@pytest.fixture(autouse=True)
def chunks_of_five(monkeypatch):
    monkeypatch.setattr(sys.modules["merging.methods._chunks"], "CHUNK", 5)


@given(st.lists(st.lists(small, min_size=3, max_size=3), min_size=1, max_size=17))
def test_sums_products_and_magnitudes_are_those_of_a_plain_loop(rows):
    stack = torch.tensor(rows).T.contiguous()
    omegas = torch.tensor([0.5, -2.0, 1.0])
    assert _edits.total_magnitude(stack[0]) == sum(map(abs, stack[0].tolist()))
    wanted = [0.5 * a - 2 * b + c for a, b, c in rows]
    assert _sums.sum_in_chunks(stack, omegas).tolist() == wanted


@given(st.lists(st.lists(small, min_size=3, max_size=3), min_size=1, max_size=17))
def test_agreeing_entries_are_those_of_a_plain_loop(rows):
    omegas = [0.5, -2.0, 1.0]
    wanted = []
    for entries in rows:
        weighted = [x * omega for x, omega in zip(entries, omegas, strict=True)]
        sign = 1 if sum(weighted) >= 0 else -1
        chosen = [(w, omega) for w, omega in zip(weighted, omegas, strict=True) if w * sign > 0]
        divisor = sum(omega for _, omega in chosen)
        wanted.append(sum(w for w, _ in chosen) / (divisor or 1.0))
    stack = torch.tensor(rows, dtype=torch.float64).T.contiguous()
    found = _sums.sum_agreeing(
        stack,
        torch.tensor(omegas, dtype=torch.float64),
        normalize=True,
        elect="weighted",
        divide_by="weight",
    )
    assert found.tolist() == pytest.approx(wanted)


def test_weights_that_cancel_but_for_rounding_do_not_divide():
    """0.3 + 0.6 − 0.9 is 6e-8 in float32; as at exactly 0, the sum is not divided."""
    omegas = torch.tensor([0.3, 0.6, -0.9])
    stack = torch.tensor([[1.0], [2.0], [-1.0]])
    found = _sums.sum_agreeing(stack, omegas, normalize=True, elect="weighted", divide_by="weight")
    assert found.item() == pytest.approx(2.4)
    assert _sums.cancel((0.3, 0.6, -0.9)) and _sums.cancel((0.0,)) and not _sums.cancel((1.0, -0.9))
