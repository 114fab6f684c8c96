"""What several methods share: trims against a plain sort, sums against a plain loop, at chunks of any size."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merging.methods import _edits

small = st.integers(-3, 3).map(float)


@pytest.fixture(autouse=True)
def chunks_of_five(monkeypatch):
    monkeypatch.setattr(sys.modules["merging.methods._edits"], "CHUNK", 5)


def plain(values, start, stop):
    """Entries at places start to before stop of a stable sort by magnitude; all others 0."""
    places = sorted(range(len(values)), key=lambda i: abs(values[i]))[start:stop]
    return [value if i in places else 0.0 for i, value in enumerate(values)]


@given(st.lists(small, min_size=1, max_size=23), st.data())
def test_ranks_are_those_of_a_stable_sort_however_many_are_equal(values, data):
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    delta = torch.tensor(values)
    _edits.keep_ranks(delta, start, stop)
    assert delta.tolist() == plain(values, start, stop)


@given(st.lists(small.filter(bool), min_size=1, max_size=23), st.floats(0.0, 1.0))
def test_exactly_the_share_is_kept(values, density):
    delta = torch.tensor(values)
    _edits.keep_largest(delta, density)
    wanted = (
        len(values) if density == 1 else max(1, int(density * len(values))) if density > 0 else 0
    )
    assert delta.count_nonzero() == wanted


@given(
    st.lists(small.filter(bool), min_size=1, max_size=23), st.floats(0.0, 1.0), st.floats(0.0, 1.0)
)
def test_breadcrumbs_keep_their_density_whatever_gamma(values, density, gamma):
    delta = torch.tensor(values)
    _edits.keep_below_outliers(delta, density, gamma)
    assert delta.count_nonzero() == (len(values) if density == 1 else int(density * len(values)))


@given(st.lists(st.lists(small, min_size=3, max_size=3), min_size=1, max_size=17))
def test_sums_products_and_magnitudes_are_those_of_a_plain_loop(rows):
    stack = torch.tensor(rows).T.contiguous()
    omegas = torch.tensor([0.5, -2.0, 1.0])
    products = [
        [sum(a * b for a, b in zip(x, y, strict=True)) for y in stack.tolist()]
        for x in stack.tolist()
    ]
    assert _edits.gram(stack).tolist() == products
    assert _edits.total_magnitude(stack[0]) == sum(map(abs, stack[0].tolist()))
    wanted = [0.5 * a - 2 * b + c for a, b, c in rows]
    assert _edits.summed(stack, omegas).tolist() == wanted


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
    found = _edits.agreed(
        stack,
        torch.tensor(omegas, dtype=torch.float64),
        normalize=True,
        elect="weighted",
        divide_by="weight",
    )
    assert found.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_random_masks_do_not_depend_on_the_size_of_chunks(monkeypatch, size):
    """A generator gives the same numbers in one draw and in many."""
    monkeypatch.setattr(sys.modules["merging.methods._edits"], "CHUNK", size)
    delta = torch.ones(23)
    _edits.drop_at_random(delta, 0.5, 3)
    assert (
        delta.tolist()
        == (torch.rand(23, generator=torch.Generator().manual_seed(3)) < 0.5).float().tolist()
    )


def test_what_is_next_to_nothing_is_not_scaled():
    delta = torch.full((3,), 1e-9)
    _edits.scale_to(delta, 1.0)
    assert delta.tolist() == [pytest.approx(1e-9)] * 3
    delta = torch.ones(3)
    _edits.scale_to(delta, 1e-9)
    assert delta.tolist() == [1.0] * 3
    _edits.scale_to(delta, 6.0)
    assert delta.tolist() == [2.0] * 3


def test_orthogonal_factor_has_orthonormal_columns_nearest_to_the_matrix():
    matrix = torch.tensor([[2.0, 0.0], [0.0, -3.0], [0.0, 0.0]], dtype=torch.float64)
    wanted = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(_edits.orthogonal_factor(matrix), wanted)
