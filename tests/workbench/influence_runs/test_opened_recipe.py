"""A recipe opened once: each composition has its own weights, and what has no ω is refused."""

from dataclasses import replace

import pytest
import torch

from merging import merge, prepare, read_recipe
from workbench.errors import SessionError
from workbench.influence_runs.opened_recipe import mixable_omegas, open_models


@pytest.fixture
def recipe(world):
    return read_recipe(world / "recipe.yml")


def test_each_composition_is_the_merge_bit_for_bit(recipe):
    opened = open_models(recipe)
    base, vectors, _ = prepare(recipe)
    for omegas in ({"ada": 0.3, "bob": 0.1, "lora": 1.0}, {"ada": 0.0, "bob": 0.9, "lora": 0.2}):
        module = opened.compose(omegas)
        held = dict(module.named_parameters(remove_duplicate=False))
        for name, weight in merge(recipe.with_omegas(omegas), base, vectors):
            assert torch.equal(held[opened.loaded.views[name].parameter], weight)
    assert list(opened.vectors) == ["ada", "bob", "lora"]


def test_the_omegas_of_a_plain_sum(recipe):
    assert mixable_omegas(recipe) == {"ada": 0.5, "bob": -0.25, "lora": 0.75}


def test_what_no_mixture_corresponds_to_is_refused(recipe):
    with pytest.raises(SessionError, match="the recipe's method is ties"):
        mixable_omegas(recipe.with_method("ties"))
    with pytest.raises(SessionError, match="has 1 vector, so there is nothing to mix"):
        mixable_omegas(replace(recipe, models=recipe.models[:1]))
    with pytest.raises(SessionError, match=r"ω of ada is .*expected one number"):
        mixable_omegas(recipe.with_omegas({"ada": [0.1, 0.9]}))


def test_a_base_without_a_tokenizer_is_refused(recipe, world, tmp_path):
    import shutil

    shutil.copytree(world / "base", tmp_path / "base")
    for file in (tmp_path / "base").glob("tokenizer*"):
        file.unlink()
    bare = replace(recipe, base=str(tmp_path / "base"), models=recipe.models[:2], inputs={})
    with pytest.raises(SessionError, match="has no tokenizer"):
        open_models(bare)
