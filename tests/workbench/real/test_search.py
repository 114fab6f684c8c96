"""The search keeps to its budget, and a merged vector times λ is the method at λ."""

import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evaluation.model import load
from merging import Checkpoint, Recipe, export, in_memory, open_recipe
from tests.workbench.real.conftest import random_adapter
from workbench.real.search import (
    BUDGET,
    MERGED,
    METHODS,
    Composition,
    merged_vector,
    search,
    share_of_gain,
)

numbers = st.floats(0, 1.2)


@given(st.lists(numbers, min_size=1, max_size=5))
def test_no_search_measures_more_than_its_budget_or_a_point_twice(best):
    names, asked = [str(n) for n in range(len(best))], []

    def measure(point):
        asked.append(tuple(point.values()))
        return {name: (point[name] - want) ** 2 for name, want in zip(names, best, strict=True)}

    found = search(measure, names, lambda losses: sum(losses.values()))
    assert found.evaluations == len(asked) == len(set(asked)) <= BUDGET
    start = [sum((value - want) ** 2 for want in best) for value in (0.4, 0.7, 1.0)]
    reached = sum((found.omegas[name] - want) ** 2 for name, want in zip(names, best, strict=True))
    assert reached <= min(start)


def test_the_score_is_the_mean_share_of_gain():
    """a: 1 of 2 gained; b: 3 of 4. Minus the mean of 0.5 and 0.75."""
    score = share_of_gain({"a": 5.0, "b": 6.0}, {"a": 3.0, "b": 2.0})
    assert score({"a": 4.0, "b": 3.0}) == -0.625
    assert score({"a": 5.0, "b": 6.0}) == 0 and score({"a": 3.0, "b": 2.0}) == -1


@pytest.fixture(scope="module")
def recipe(tiny_base, tiny_adapter, tmp_path_factory):
    """Two random adapters on the tiny base."""
    other = random_adapter(tiny_base, tmp_path_factory.mktemp("two") / "two", seed=1)
    return Recipe.compose(tiny_base, {"one": tiny_adapter, "two": other})


@pytest.mark.parametrize("label", METHODS)
def test_a_merged_vector_times_lambda_is_the_method_at_lambda(recipe, label, tmp_path):
    """The oracle exports the method with λ itself."""
    made = merged_vector(recipe, label, tmp_path / "made", seed=3)
    method = METHODS[label]
    at = replace(
        recipe.with_omegas({"one": 1.0, "two": 1.0}),
        method=method["method"],
        parameters={**method.get("parameters", {}), "lambda": 0.6},
        seed=3,
    )
    export(at, *open_recipe(at), tmp_path / "at")
    base = Checkpoint(recipe.base)
    loaded = load(recipe.base, checkpoint=base, dtype=torch.float32)
    Composition(in_memory(base), loaded, made).apply({MERGED: 0.6})
    wanted, changed = load_file(tmp_path / "at" / "model.safetensors"), 0
    for name, view in loaded.views.items():
        got = loaded.module.get_parameter(view.parameter)
        assert torch.allclose(got, wanted[name], atol=1e-6), name
        changed += not torch.equal(got, base[name])
    assert changed == 8  # q_proj and up_proj of four layers


def test_the_newest_composition_of_a_module_is_right_whatever_was_there(recipe):
    base = Checkpoint(recipe.base)
    loaded = load(recipe.base, checkpoint=base, dtype=torch.float32)
    held = in_memory(base)
    Composition(held, loaded, recipe).apply({"one": 1.0})
    Composition(held, loaded, recipe).apply({})
    for name, view in loaded.views.items():
        assert torch.equal(loaded.module.get_parameter(view.parameter), base[name])


def test_a_composition_on_a_base_in_bfloat16_is_not_rounded_to_it(recipe, tmp_path):
    shutil.copytree(recipe.base, tmp_path / "base")
    held = {name: weight.bfloat16() for name, weight in Checkpoint(recipe.base).items()}
    save_file(held, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    low = replace(
        recipe,
        base=str(tmp_path / "base"),
        models=tuple(replace(each, path=str(tmp_path / "base")) for each in recipe.models),
    )
    base = Checkpoint(low.base)
    loaded = load(low.base, checkpoint=base, dtype=torch.float32)
    Composition(in_memory(base), loaded, low).apply({"one": 1.0})
    weight = loaded.module.get_parameter("model.layers.0.mlp.up_proj.weight")
    assert not torch.equal(weight, weight.bfloat16().float())
