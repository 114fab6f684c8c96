"""Keys of compositions change with all that decides the weights."""

from dataclasses import replace

import pytest

from merging.recipe import Recipe
from workbench.session.keys import composition_key, weights_key

FILES = {"a": "files of a", "b": "files of b"}


def recipe(omegas=(0.5, 0.25), method="dare_ties", **more):
    named = dict(zip(FILES, omegas, strict=True))
    return Recipe.compose("base", {name: name for name in FILES}, named, method=method, **more)


def key(asked, base="base", files=FILES):
    return composition_key(asked, base, files)


def test_everything_that_decides_the_weights_changes_the_key():
    others = [
        recipe((0.5, 0.75)),
        recipe((0.5, 0.0)),
        recipe(method="ties"),
        recipe(seed=1),
        recipe(parameters={"density": 0.5}),
        recipe(exclude=("norm",)),
        recipe(rounding="stochastic"),
    ]
    keys = {key(asked) for asked in (recipe(), *others)}
    keys |= {key(recipe(), "other"), key(recipe(), "base", FILES | {"b": "others"})}
    assert len(keys) == len(others) + 3


def test_a_vector_without_weight_does_not_count():
    assert key(recipe((0.5, 0.0))) == key(recipe((0.5, 0.0)), "base", FILES | {"b": "others"})


@pytest.mark.parametrize("key_of", [key, weights_key])
def test_losses_of_other_random_masks_are_not_taken(key_of, monkeypatch):
    drawn, fixed = recipe(), recipe(method="ties")
    before = key_of(drawn), key_of(fixed)
    definition = Recipe.definition.fget
    monkeypatch.setattr(
        Recipe,
        "definition",
        property(
            lambda asked: replace(
                definition(asked), draws=definition(asked).draws and definition(asked).draws + 1
            )
        ),
    )
    assert key_of(drawn) != before[0] and key_of(fixed) == before[1]
