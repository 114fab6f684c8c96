"""What the loop gives a method: its vectors, parameters per vector and per tensor, seeds, depth, and the base's role."""

import math

import pytest
import torch

from merging import DistributionVector, LoraVector, Recipe
from merging.engine.loop import merge
from merging.engine.task import seed_of
from merging.engine.tasks import effective_weights, tasks
from merging.errors import RecipeError
from merging.recipe import ModelEntry, parse_recipe, recipe_yaml
from merging.recipe.formula import formula

QUERY = "model.layers.0.self_attn.q_proj.weight"


def vectors_of(base, tuned, names):
    return {name: DistributionVector(name, base, tuned(base, i)) for i, name in enumerate(names)}


def recipe_of(method, models, base="base", **parameters):
    """Models as name -> parameters."""
    sources = tuple(ModelEntry(name, name, given) for name, given in models.items())
    return Recipe(base=base, models=sources, method=method, parameters=parameters)


def task_of(recipe, base, vectors, name=QUERY):
    return next(task for task in tasks(recipe, base, vectors) if task.name == name)


def test_each_vector_has_its_own_parameters(llama, tuned):
    base = llama()
    vectors = vectors_of(base, tuned, "ab")
    models = {"a": {"weight": 1.0, "density": 0.2}, "b": {"weight": 0.5}}
    recipe = recipe_of("ties", models, density=[{"filter": "mlp", "value": 0.9}, {"value": 0.4}])
    assert dict(task_of(recipe, base, vectors).arguments)["density"] == (0.2, 0.4)
    down = task_of(recipe, base, vectors, "model.layers.0.mlp.down_proj.weight")
    assert dict(down.arguments)["density"] == (0.2, 0.9)
    assert dict(task_of(recipe_of("ties", models), base, vectors).arguments)["density"] == (
        0.2,
        1.0,
    )


def test_a_vector_at_omega_0_takes_its_parameters_along(llama, tuned):
    base = llama()
    vectors = vectors_of(base, tuned, "abc")
    models = {
        name: {"weight": omega, "density": density}
        for name, omega, density in [("a", 0, 0.1), ("b", 1, 0.2), ("c", 1, 0.3)]
    }
    task = task_of(recipe_of("ties", models), base, vectors)
    assert task.vectors == ("b", "c") and dict(task.arguments)["density"] == (0.2, 0.3)


def test_methods_of_a_fixed_number_keep_a_vector_at_omega_0(llama, tuned):
    base = llama()
    vectors = vectors_of(base, tuned, "ab")
    recipe = recipe_of("nuslerp", {"a": {"weight": 1.0}, "b": {"weight": 0.0}})
    merged = dict(merge(recipe, base, vectors))
    torch.testing.assert_close(merged[QUERY], vectors["a"].tuned[QUERY])


def test_without_a_base_methods_of_either_space_work_on_weights(llama, tuned):
    base = llama()
    vectors = vectors_of(base, tuned, "ab")
    models = {"a": {"weight": 1.0}, "b": {"weight": 1.0}}
    with_base, without = recipe_of("nuslerp", models), recipe_of("nuslerp", models, base=None)
    assert (task_of(with_base, base, vectors).space, task_of(without, base, vectors).space) == (
        "deltas",
        "weights",
    )
    one, other = (vectors[name].tuned[QUERY].double().flatten() for name in "ab")
    angle = math.acos(float(one @ other / one.norm() / other.norm()))
    wanted = (one + other) * math.sin(angle / 2) / math.sin(angle)
    found = dict(merge(without, base, vectors))[QUERY].double().flatten()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert formula(without) == "nuslerp(1.00·Θa, 1.00·Θb)"
    assert formula(with_base) == "Θ + nuslerp(1.00·Δa, 1.00·Δb)"


def test_karcher_takes_the_base_as_one_more_model(llama, tuned):
    base = llama()
    vectors = vectors_of(base, tuned, ["a", "base"])
    recipe = recipe_of("karcher", {"a": {}})
    assert [source.name for source in recipe.models] == ["a", "base"]
    assert task_of(recipe, base, vectors).vectors == ("a", "base")
    assert recipe_of("karcher", {"a": {}, "base": {}}).models == recipe.models
    assert formula(recipe) == "karcher(Θa, Θbase)"


def test_an_adapter_that_does_not_reach_a_tensor_is_zeros_where_it_counts(
    llama, tuned, adapter, tmp_path, write
):
    from merging import Checkpoint

    base = llama()
    folder = write(tmp_path / "base", base)
    lora = LoraVector(
        adapter(tmp_path / "lora", base, [QUERY.removesuffix(".weight")]),
        Checkpoint(folder),
        "lora",
    )
    vectors = vectors_of(base, tuned, "a") | {"lora": lora}
    key = QUERY.replace("q_proj", "k_proj")
    stock = task_of(recipe_of("model_stock", {"a": {}, "lora": {}}), base, vectors, key)
    assert stock.vectors == ("a", "lora")
    assert torch.equal(
        dict(merge(recipe_of("model_stock", {"a": {}, "lora": {}}), base, vectors))[key], base[key]
    )
    weights = {"a": {"weight": 1.0}, "lora": {"weight": 3.0}}
    assert task_of(recipe_of("task_arithmetic", weights), base, vectors, key).vectors == ("a",)
    mean = recipe_of("task_arithmetic", weights, normalize=True)
    assert task_of(mean, base, vectors, key).vectors == ("a", "lora")
    torch.testing.assert_close(
        dict(merge(mean, base, vectors))[key], base[key] + vectors["a"][key] / 4
    )


def test_seeds_are_of_the_recipe_the_tensor_and_the_vector(llama, tuned):
    """SHA-256 of "0\\0w\\0a", its first 63 bits; written out so that no refactoring changes the masks of old recipes."""
    assert seed_of(0, "w", "a") == 0x46C10C482DD7F141
    assert (
        len(
            {seed_of(seed, tensor, vector) for seed in (0, 1) for tensor in "wx" for vector in "ab"}
        )
        == 8
    )
    assert seed_of(0, "wa", "b") != seed_of(0, "w", "ab")


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_random_masks_do_not_depend_on_order_or_on_other_sliders(llama, tuned, method):
    base = llama()
    vectors = vectors_of(base, tuned, "ab")
    given = {"density": 0.5}

    def merged(models, seed=0):
        sources = tuple(ModelEntry(name, name, {"weight": omega}) for name, omega in models.items())
        recipe = Recipe(base="base", models=sources, method=method, parameters=given, seed=seed)
        return dict(merge(recipe, base, vectors))

    alone = merged({"a": 1.0})
    assert all(
        torch.equal(value, alone[name]) for name, value in merged({"b": 0.0, "a": 1.0}).items()
    )
    assert not torch.equal(merged({"a": 1.0}, seed=1)[QUERY], alone[QUERY])
    both, turned = merged({"a": 1.0, "b": 0.5}), merged({"b": 0.5, "a": 1.0})
    torch.testing.assert_close(both[QUERY], turned[QUERY])


def test_depth_is_given_inside_the_layers_only(llama, tuned):
    base = llama()
    vectors = vectors_of(base, tuned, "a")
    found = {
        task.name: task.depth
        for task in tasks(recipe_of("lines", {"a": {"weight": 1.0}}), base, vectors)
    }
    assert [found[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(3)] == [
        0.0,
        0.5,
        1.0,
    ]
    assert found["lm_head.weight"] is None and found["model.embed_tokens.weight"] is None


def test_a_tensor_without_a_dimension_is_merged(tuned):
    base = {"scale": torch.tensor(2.0)}
    vectors = {
        name: DistributionVector(name, base, {"scale": torch.tensor(value)})
        for name, value in (("a", 3.0), ("b", 1.0))
    }
    merged = dict(
        merge(recipe_of("ties", {"a": {"weight": 1.0}, "b": {"weight": 1.0}}), base, vectors)
    )
    assert merged["scale"].shape == () and merged["scale"].item() == 3.0


def test_a_refusal_names_method_and_tensor(llama, tuned):
    base = llama()
    vectors = vectors_of(base, tuned, "a")
    recipe = recipe_of("della", {"a": {"weight": 1.0}}, density=0.05)
    with pytest.raises(
        RecipeError,
        match=r"^della at model.embed_tokens.weight: density 0.05 ± epsilon 0.15 must lie",
    ):
        tasks(recipe, base, vectors)


class TestChosenTensors:
    def test_what_is_excluded_is_the_bases(self, llama, tuned):
        base = llama()
        vectors = vectors_of(base, tuned, "a")
        recipe = Recipe.compose("base", {"a": "a"}, {"a": 1.0}, exclude=["embed", "lm_head"])
        merged = dict(merge(recipe, base, vectors))
        same = {name for name in base if torch.equal(merged[name], base[name])}
        assert same == {"model.embed_tokens.weight", "lm_head.weight"}

    def test_only_what_is_included_is_merged(self, llama, tuned):
        base = llama()
        vectors = vectors_of(base, tuned, "a")
        recipe = Recipe.compose(
            "base", {"a": "a"}, {"a": 1.0}, include=("mlp",), exclude=("layers.0.",)
        )
        merged = dict(merge(recipe, base, vectors))
        moved = {name for name in base if not torch.equal(merged[name], base[name])}
        assert moved == {name for name in base if "mlp" in name and "layers.0." not in name}

    @pytest.mark.parametrize("key", ["include", "exclude"])
    def test_a_part_that_matches_nothing_is_named(self, llama, tuned, key):
        base = llama()
        recipe = Recipe.compose("base", {"a": "a"}, {"a": 1.0}, **{key: ["experts"]})
        with pytest.raises(
            RecipeError, match=f"dem.{key}: 'experts' matches no tensor of the base"
        ):
            tasks(recipe, base, vectors_of(base, tuned, "a"))

    def test_all_that_match_nothing_are_named_at_once(self, llama, tuned):
        base = llama()
        rules = [{"filter": "norms", "value": 0.5}, {"value": 1.0}]
        recipe = Recipe.compose(
            "base", {"a": "a"}, {"a": rules}, include=("mlp",), exclude=("experts",)
        )
        with pytest.raises(RecipeError) as caught:
            tasks(recipe, base, vectors_of(base, tuned, "a"))
        assert str(caught.value).splitlines() == [
            "dem.exclude: 'experts' matches no tensor of the base.",
            "a: weight: the filter 'norms' matches no tensor of the base.",
        ]

    def test_they_travel_in_the_recipe_and_count_in_its_digest(self):
        plain = Recipe.compose("base", {"a": "a"}, {"a": 1.0})
        recipe = Recipe.compose(
            "base",
            {"a": "a"},
            {"a": 1.0},
            include=["mlp"],
            exclude=["embed"],
            rounding="stochastic",
        )
        assert parse_recipe(recipe_yaml(recipe)) == recipe
        assert (
            len(
                {
                    plain.digest,
                    recipe.digest,
                    Recipe.compose("base", {"a": "a"}, {"a": 1.0}, exclude=["mlp"]).digest,
                }
            )
            == 3
        )

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"include": "mlp"}, "include is 'mlp', expected a list of parts"),
            ({"exclude": [""]}, r"exclude is \[''\], expected a list"),
            ({"rounding": "up"}, "dem.rounding is 'up'; known: nearest, stochastic"),
        ],
    )
    def test_what_they_cannot_be(self, more, message):
        with pytest.raises(RecipeError, match=message):
            Recipe.compose("base", {"a": "a"}, {"a": 1.0}, **more)


def test_effective_weights_are_what_each_tensor_gets(llama, tuned):
    base = llama() | {"steps": torch.tensor(3)}
    vectors = vectors_of(base, tuned, "ab")
    rules = [{"filter": "mlp", "value": [0.0, 1.0]}, {"value": 0.25}]
    recipe = Recipe.compose("base", {"a": "a", "b": "b"}, {"a": rules, "b": 0.5}, exclude=["norm"])
    table = effective_weights(recipe, base, vectors)
    assert list(table) == list(base)
    assert table["model.layers.1.mlp.up_proj.weight"] == {"a": 0.5, "b": 0.5}
    assert table["model.layers.0.mlp.up_proj.weight"] == {"a": 0.0, "b": 0.5}
    assert table["lm_head.weight"] == {"a": 0.25, "b": 0.5}
    assert table["model.norm.weight"] == table["steps"] == {"a": None, "b": None}


class TestStochasticRounding:
    def merged(self, base, vectors, **more):
        recipe = Recipe.compose("base", {"a": "a"}, {"a": 1.0}, out_dtype="bfloat16", **more)
        return dict(merge(recipe, base, vectors))

    def test_is_to_one_of_the_neighbours_and_seeded(self, llama, tuned):
        base = llama()
        vectors = vectors_of(base, tuned, "a")
        near, drawn = self.merged(base, vectors), self.merged(base, vectors, rounding="stochastic")
        again = self.merged(base, vectors, rounding="stochastic")
        other = self.merged(base, vectors, rounding="stochastic", seed=1)
        assert all(torch.equal(drawn[name], again[name]) for name in base)
        assert not torch.equal(drawn[QUERY], near[QUERY]) and not torch.equal(
            drawn[QUERY], other[QUERY]
        )
        step = 2.0**-8 * drawn[QUERY].double().abs() * 2
        assert ((drawn[QUERY].double() - vectors["a"].tuned[QUERY].double()).abs() <= step).all()

    def test_block_size_does_not_change_it(self, llama, tuned, pieces):
        base = llama()
        vectors = vectors_of(base, tuned, "a")
        whole = self.merged(base, vectors, rounding="stochastic")
        pieces(17)
        assert all(
            torch.equal(value, whole[name])
            for name, value in self.merged(base, vectors, rounding="stochastic").items()
        )

    def test_what_need_not_be_rounded_is_not(self, llama, tuned):
        base = llama(dtype=torch.bfloat16)
        recipe = Recipe.compose("base", {"a": "a"}, {"a": 0.0}, rounding="stochastic")
        merged = dict(merge(recipe, base, vectors_of(base, tuned, "a")))
        assert all(torch.equal(merged[name], base[name]) for name in base)
