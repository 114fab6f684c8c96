"""Trimming in blocks keeps the very entries that trimming the whole tensor keeps."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merging import DistributionVector, merge
from merging.engine import rank_windows
from merging.engine.rank_windows import select
from merging.engine.tasks import tasks
from merging.inputs.checkpoint import Checkpoint
from merging.methods import _chunks
from merging.methods._edits import rank_window

METHODS = {
    "ties": {"density": 0.3},
    "breadcrumbs": {"density": 0.4, "gamma": 0.1},
    "breadcrumbs_ties": {"density": 0.4, "gamma": 0.1},
}
DENSITIES = [0.0, 1e-9, 0.3, 0.99, 1.0]
SIZE = (13, 29)
BLOCKS = (8, 12, 36)
"""Elements of a chunk, of a block and of a piece; see in_blocks."""


@given(
    st.lists(st.integers(-4, 4).map(lambda each: each / 4) | st.floats(width=32, allow_nan=False)),
    st.integers(1, 7),
    st.data(),
)
def test_the_ends_are_those_of_a_sort(values, chunk, data):
    sizes = torch.tensor([*values, 0.5], dtype=torch.float32).abs()
    start = data.draw(st.integers(0, len(sizes) - 1))
    stop = data.draw(st.integers(start + 1, len(sizes)))
    assert select(lambda: iter(sizes.split(chunk)), start, stop) == rank_window(
        sizes.clone(), start, stop
    )


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float64], ids=str)
def models(request):
    """A base and three tunes of whole quarters, so that many magnitudes are equal."""
    generator = torch.Generator().manual_seed(0)

    def drawn(low, high):
        numbers = torch.randint(low, high, SIZE, generator=generator)
        return (numbers / 4).to(request.param)

    base = {"w": drawn(-9, 9), "small": drawn(-3, 3)[:1, :5]}
    tuned = [
        {name: each + drawn(-3, 4)[: len(each), : each.shape[1]] for name, each in base.items()}
        for _ in range(3)
    ]
    return base, tuned


def vectors_of(base, tuned):
    return {f"v{i}": DistributionVector(f"v{i}", base, each) for i, each in enumerate(tuned)}


@pytest.fixture
def in_blocks(monkeypatch, pieces):
    """Makes tensors above some entries come in blocks, with chunks that no block begins with."""

    def of(chunk, block, piece):
        monkeypatch.setattr(rank_windows, "CHUNK", chunk)
        monkeypatch.setattr(_chunks, "CHUNK", 20)
        pieces(block, piece)

    return of


@pytest.mark.parametrize("sizes", [(8, 8, 16), (8, 12, 36), (50, 7, 21), (1000, 1000, 1000)])
@pytest.mark.parametrize("name", METHODS)
def test_blocks_have_the_bits_of_the_whole(name, models, sizes, in_blocks, recipe, bits):
    base, tuned = models
    asked = recipe({"v0": 0.5, "v1": -0.7, "v2": 1.0}, name, parameters=METHODS[name])
    whole = dict(merge(asked, base, vectors_of(base, tuned)))
    in_blocks(*sizes)
    vectors = vectors_of(base, tuned)
    for _ in range(2):  # found, and known
        found = dict(merge(asked, base, vectors))
        assert all(bits(found[key], whole[key]) for key in whole)
    large, small = tasks(asked, base, vectors)
    assert (large.whole, small.whole) == (False, True)
    assert not torch.equal(whole["w"], base["w"])


@pytest.mark.parametrize("density", DENSITIES)
def test_any_share_is_kept_alike(density, models, in_blocks, recipe, bits):
    base, tuned = models
    asked = recipe({"v0": 1.0, "v1": 1.0, "v2": 1.0}, "ties", parameters={"density": density})
    whole = dict(merge(asked, base, vectors_of(base, tuned)))
    in_blocks(*BLOCKS)
    found = dict(merge(asked, base, vectors_of(base, tuned)))
    assert bits(found["w"], whole["w"])


def test_ends_that_nothing_equals_are_not_counted(in_blocks, recipe, bits, monkeypatch):
    """Where all magnitudes differ, no entry is ranked by its position, so two passes are enough."""
    sizes = torch.randperm(SIZE[0] * SIZE[1], generator=torch.Generator().manual_seed(1)) + 1.0
    base, tuned = {"w": torch.zeros(SIZE)}, [{"w": sizes.view(SIZE)}]
    asked = recipe({"v0": 1.0}, "ties", parameters={"density": 0.3})
    whole = dict(merge(asked, base, vectors_of(base, tuned)))["w"]
    in_blocks(*BLOCKS)
    passes, chunks = [], rank_windows._Delta.chunks
    monkeypatch.setattr(
        rank_windows._Delta, "chunks", lambda delta: passes.append(delta.name) or chunks(delta)
    )
    assert bits(dict(merge(asked, base, vectors_of(base, tuned)))["w"], whole)
    assert passes == ["w"] * 2
    # Another entry equals the lowest that is kept, and comes first.
    lowest = whole[whole > 0].min()
    tuned[0]["w"] = torch.where(tuned[0]["w"] == lowest - 1, lowest, tuned[0]["w"])
    assert dict(merge(asked, base, vectors_of(base, tuned)))["w"].count_nonzero() == int(
        0.3 * sizes.numel()
    )
    assert passes == ["w"] * 5


def test_another_density_is_looked_for_anew(models, in_blocks, recipe, bits):
    base, tuned = models
    in_blocks(*BLOCKS)
    vectors = vectors_of(base, tuned)
    for density in (0.2, 0.6, 0.2):
        asked = recipe({"v0": 1.0, "v1": 0.5, "v2": 1.0}, "ties", parameters={"density": density})
        found = dict(merge(asked, base, vectors))["w"]
        assert bits(found, dict(merge(asked, base, vectors_of(base, tuned)))["w"])


def test_rescaled_tensors_come_whole(models, recipe, in_blocks):
    base, tuned = models
    in_blocks(*BLOCKS)
    asked = recipe({"v0": 1.0}, "ties", parameters={"density": 0.5, "rescale": True})
    assert all(task.whole for task in tasks(asked, base, vectors_of(base, tuned)))


def test_a_fault_while_looking_is_told_to_all_and_forgotten(models, in_blocks, recipe, monkeypatch):
    base, tuned = models
    in_blocks(*BLOCKS)
    vectors = vectors_of(base, tuned)
    asked = recipe({"v0": 1.0}, "ties", parameters={"density": 0.5})
    with monkeypatch.context() as broken:
        broken.setattr(rank_windows, "select", None)
        broken.setattr(rank_windows, "rank_window", None)
        with pytest.raises(TypeError):
            dict(merge(asked, base, vectors))
    assert "w" in dict(merge(asked, base, vectors))


def test_one_thread_looks_and_the_others_wait(models, in_blocks, recipe, monkeypatch):
    base, tuned = models
    in_blocks(*BLOCKS)
    vectors, searched = vectors_of(base, tuned), []
    search, begun, go = rank_windows._search, threading.Event(), threading.Event()

    def slow(delta, ranks):
        searched.append(ranks)
        begun.set()
        assert go.wait(10)
        return search(delta, ranks)

    monkeypatch.setattr(rank_windows, "_search", slow)
    asked = recipe({"v0": 1.0}, "ties", parameters={"density": 0.5})
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(dict(merge(asked, base, vectors))["w"]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    go.set()
    for thread in threads:
        thread.join()
    assert len(searched) == 1 and len(found) == 3
    assert all(torch.equal(found[0], other) for other in found)


def test_files_are_read_as_memory_is(models, in_blocks, recipe, bits, write, tmp_path):
    base, tuned = models
    folders = [write(tmp_path / f"m{i}", each) for i, each in enumerate([base, *tuned])]
    opened = [Checkpoint(folder) for folder in folders]
    asked = recipe({"v0": 0.5, "v1": 1.0, "v2": 1.0}, "ties", parameters={"density": 0.4})
    in_blocks(*BLOCKS)
    found = dict(merge(asked, opened[0], vectors_of(opened[0], opened[1:])))
    wanted = dict(merge(asked, base, vectors_of(base, tuned)))
    assert all(bits(found[key], wanted[key]) for key in wanted)
