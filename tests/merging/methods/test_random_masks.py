"""Entries are dropped at random alike on whole tensors and blocks, and what is kept is scaled for it."""

from dataclasses import replace

import pytest
import torch

from merging import DistributionVector, Recipe, merge
from merging.engine.tasks import tasks
from merging.methods import _chunks, _loops, _random_masks, _survey
from merging.methods._random_masks import sparsify
from merging.methods._values import Site

METHODS = {
    "dare_linear": {"density": 0.4},
    "dare_ties": {"density": 0.4},
    "della": {"density": 0.5, "epsilon": 0.2},
    "della_linear": {"density": 0.5, "epsilon": 0.2},
}
RESCALINGS = [{}, {"rescale_by": "density"}, {"rescale": False}]
SIZES = {"w": (37, 13), "kernel": (9, 2, 3, 5), "flat": (300,), "small": (2, 3)}


@pytest.fixture
def models():
    generator = torch.Generator().manual_seed(2)

    def drawn(scale):
        return {
            name: torch.randn(size, generator=generator) * scale for name, size in SIZES.items()
        }

    base = drawn(1.0)
    return base, [{name: base[name] + each for name, each in drawn(0.2).items()} for _ in range(3)]


@pytest.fixture
def in_chunks(monkeypatch, pieces):
    """Makes tensors above 40 entries come in blocks; sizes of a chunk, a block and a piece."""

    def of(chunk=40, block=24, piece=100):
        for module in (_chunks, _survey, _random_masks):
            monkeypatch.setattr(module, "CHUNK", chunk)
        pieces(block, piece)

    return of


def merged(name, more, base, tuned, recipe):
    asked = recipe(
        {"v0": 0.5, "v1": -0.7, "v2": 1.0}, name, parameters=METHODS[name] | more, seed=4
    )
    vectors = {f"v{i}": DistributionVector(f"v{i}", base, each) for i, each in enumerate(tuned)}
    whole = {task.name: task.whole for task in tasks(asked, base, vectors)}
    return dict(merge(asked, base, vectors)), whole


@pytest.mark.parametrize("more", RESCALINGS, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_blocks_have_the_values_of_the_whole(name, more, models, in_chunks, recipe, bits):
    wanted, _ = merged(name, more, *models, recipe)
    in_chunks()
    found, whole = merged(name, more, *models, recipe)
    # A row of 300 entries fits in no chunk of 40; only with ranks in rows does that matter.
    assert whole == {"w": False, "kernel": False, "flat": "della" in name, "small": True}
    for key, values in wanted.items():
        # Sums of magnitudes are added in another order.
        torch.testing.assert_close(found[key], values, rtol=1e-6, atol=1e-6)
    for sizes in ((40, 7, 7), (40, 61, 70), (40, 1000, 1000)):
        in_chunks(*sizes)
        other, _ = merged(name, more, *models, recipe)
        assert all(bits(other[key], found[key]) for key in found)


@pytest.mark.parametrize("name", METHODS)
def test_without_the_compiled_loop_the_bits_are_the_same(
    name, models, in_chunks, recipe, bits, monkeypatch
):
    in_chunks()
    wanted, _ = merged(name, {}, *models, recipe)
    monkeypatch.setattr(_loops, "library", lambda: None)
    found, _ = merged(name, {}, *models, recipe)
    assert all(bits(found[key], wanted[key]) for key in wanted)


def test_a_vector_of_density_1_or_0_is_not_drawn_for():
    stack = torch.ones(3, 8)
    sparsify(
        stack,
        Site("w", torch.zeros(8), seeds=(1, 2, 3)),
        density=(1.0, 0.0, 0.5),
        rescale_by="l1",
    )
    assert stack[0].tolist() == [1.0] * 8 and not stack[1].any()
    kept = int(stack[2].count_nonzero())
    assert 0 < kept < 8 and stack[2].sum() == pytest.approx(8)


def test_a_density_that_float32_cannot_hold_keeps_nothing():
    stack = torch.ones(1, 5)
    sparsify(stack, Site("w", torch.zeros(5), seeds=(0,)), density=(1e-50,), rescale_by="density")
    assert stack.tolist() == [[0.0] * 5]


def test_a_recipe_of_a_method_that_draws_counts_the_stream(recipe, monkeypatch):
    """So a composition that was measured with other masks is not taken for this one."""
    asked = recipe({"a": 1.0}, "dare_ties")
    before, definition = asked.digest, asked.definition
    assert (
        definition.draws == _random_masks.STREAM
        and recipe({"a": 1.0}, "ties").definition.draws == 0
    )
    later = replace(definition, draws=_random_masks.STREAM + 1)
    monkeypatch.setattr(Recipe, "definition", property(lambda recipe: later))
    assert asked.digest != before
