"""As many weights are held in memory as half of what is free takes, and no value depends on which."""

from types import SimpleNamespace

import pytest
import torch

from merging import Recipe, merge, preflight
from workbench.session import memory

OMEGAS = {"ada": 0.5, "bob": -0.25, "lora": 0.75}


@pytest.fixture
def opened(world):
    return lambda: preflight(world / "base", [world / name for name in OMEGAS], list(OMEGAS))


def held(opened, monkeypatch, models):
    """What `hold` says with room for so many models, and the composition that comes out."""
    base, vectors, _ = opened()
    free = int(2 * base.nbytes * models)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    weights, words = memory.load_into_memory(base, vectors)
    recipe = Recipe.compose("base", {name: name for name in OMEGAS}, OMEGAS)
    return words, dict(merge(recipe, weights, vectors)), weights, vectors


def test_all_some_or_none_are_held_and_the_composition_is_the_same(opened, monkeypatch):
    everything, wanted, weights, vectors = held(opened, monkeypatch, 9)
    assert everything.startswith("held in memory, ") and "read from files" not in everything
    assert (
        isinstance(weights, dict)
        and isinstance(vectors["bob"].tuned, dict)
        and isinstance(vectors["lora"].stored, dict)
    )
    # The first composition computed its products, and the next one finds them.
    products = vectors["lora"]._products
    assert set(products) == set(vectors["lora"])
    assert all(torch.equal(products[name], vectors["lora"][name].flatten()) for name in products)

    room = 9 * opened()[0].nbytes
    for more, place in ((1.1, True), (0.9, False)):
        monkeypatch.setattr(memory, "PRODUCTS", more * vectors["lora"].product_bytes / room)
        words, found, _, again = held(opened, monkeypatch, 9)
        assert "read from files" not in words
        assert (again["lora"]._products is not None) is place, "products have a share of their own"
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    some, found, weights, vectors = held(opened, monkeypatch, 2.1)
    assert "; bob read from files, because " in some and "do not fit in half of" in some
    assert isinstance(vectors["ada"].tuned, dict) and not isinstance(vectors["bob"].tuned, dict)
    assert isinstance(vectors["lora"].stored, dict), "what is small fits where a larger one did not"
    assert vectors["lora"]._products is None, "its products do not fit beside them"
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    none, found, weights, vectors = held(opened, monkeypatch, 0.5)
    assert none.startswith("read from files, because ")
    assert not isinstance(weights, dict) and not isinstance(vectors["lora"].stored, dict)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
