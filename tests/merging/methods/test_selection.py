"""Sizes are selected by rank from histograms as a sort selects them, whatever the chunks."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merging.methods import _survey
from merging.methods._selection import Ranked, select_surveyed
from merging.methods._values import Site


@pytest.fixture(autouse=True)
def chunks_of_five(monkeypatch):
    monkeypatch.setattr(sys.modules["merging.methods._chunks"], "CHUNK", 5)
    monkeypatch.setattr(_survey, "CHUNK", 5)


def selected(values, ranks):
    stack = torch.stack([values, torch.zeros_like(values)])
    site = Site("w", torch.zeros_like(values))
    return select_surveyed(stack, site, "sizes", lambda chunk: chunk.values[0].abs(), ranks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    values=st.lists(
        st.integers(-3, 3).map(float) | st.floats(-(2.0**99), 2.0**99, width=32),
        min_size=1,
        max_size=23,
    ),
    data=st.data(),
)
def test_the_sizes_are_those_of_a_sort(dtype, values, data):
    ranks = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=3))
    ordered = sorted(map(abs, values))
    wanted = [
        Ranked(ordered[rank], sum(size < ordered[rank] for size in ordered)) for rank in ranks
    ]
    assert selected(torch.tensor(values, dtype=dtype), ranks) == wanted


def test_sizes_that_differ_in_the_last_bit_are_told_apart():
    one = torch.tensor([1.0]).view(torch.int32)
    values = (one + torch.arange(7, dtype=torch.int32).flip(0)).view(torch.float32)
    assert [ranked.below for ranked in selected(values, range(7))] == list(range(7))
    assert selected(values, [3])[0].size == float(values[3])
