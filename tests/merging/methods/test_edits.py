"""Edits of one delta: trims against a plain sort, masks and scales, at chunks of any size."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merging.methods import _edits

small = st.integers(-3, 3).map(float)


@pytest.fixture(autouse=True)
def chunks_of_five(monkeypatch):
    monkeypatch.setattr(sys.modules["merging.methods._chunks"], "CHUNK", 5)


def plain(values, start, stop):
    """Entries at places start to before stop of a stable sort by magnitude; all others 0."""
    places = sorted(range(len(values)), key=lambda i: abs(values[i]))[start:stop]
    return [value if i in places else 0.0 for i, value in enumerate(values)]


@given(st.lists(small, min_size=1, max_size=23), st.data())
def test_ranks_are_those_of_a_stable_sort_however_many_are_equal(values, data):
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    delta = torch.tensor(values)
    _edits.keep_ranks(delta, None if stop is None else (start, stop))
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


def test_what_is_next_to_nothing_is_not_scaled():
    delta = torch.full((3,), 1e-9)
    _edits.rescaled(delta, 1.0, 3e-9)
    assert delta.tolist() == [pytest.approx(1e-9)] * 3
    delta = torch.ones(3)
    _edits.rescaled(delta, 1e-9, 3.0)
    assert delta.tolist() == [1.0] * 3
    _edits.rescaled(delta, 6.0, 3.0)
    assert delta.tolist() == [2.0] * 3


def test_a_scale_beyond_float32_is_applied_in_two_steps():
    """1e33 is dropped and 1e-7 kept: the factor is 1e40, the result in range."""
    delta = torch.tensor([0.0, 1e-7])
    _edits.rescaled(delta, 1e33, float(delta[1]))
    assert delta.tolist() == [0.0, pytest.approx(1e33)]


def test_thinning_restores_the_sum_of_magnitudes_if_asked():
    for rescale, wanted in ((True, [0.0, -6.0]), (False, [0.0, -4.0])):
        delta = torch.tensor([2.0, -4.0])
        _edits.thin(delta, 0.5, rescale, lambda values: values[:1].zero_())
        assert delta.tolist() == wanted
