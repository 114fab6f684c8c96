"""Recipes of every method: how many models, what part the base plays, which keys belong where."""

import json

import pytest
import yaml

from merging.errors import RecipeError
from merging.recipe import ModelEntry, Recipe, parse_recipe, recipe_yaml
from merging.recipe.formula import formula


def text(method, models, base="base", **parameters):
    document = {
        "merge_method": method,
        "models": [
            {"model": name, "parameters": given} if given else {"model": name}
            for name, given in models.items()
        ],
    }
    document |= {"base_model": base} if base else {}
    return json.dumps(
        document | ({"parameters": parameters} if parameters else {})
    )  # YAML too, and without aliases


def read(*arguments, **more):
    return parse_recipe(text(*arguments, **more))


def names(recipe):
    return [source.name for source in recipe.models]


W = {"weight": 1.0}


class TestTheBase:
    @pytest.mark.parametrize(
        ("method", "given"), [("ties", W), ("nuslerp", W), ("slerp", {}), ("model_stock", {})]
    )
    def test_may_be_listed_without_a_weight(self, method, given):
        others = {"slerp": ["a"]}.get(method, ["a", "b"])
        more = {"t": 0.5} if method == "slerp" else {}
        assert names(read(method, {"base": {}} | dict.fromkeys(others, given), **more)) == others

    def test_is_one_of_karchers_models(self):
        assert names(read("karcher", {"a": {}, "b": {}})) == ["a", "b", "base"]
        assert names(read("karcher", {"base": {}, "b": {}})) == ["base", "b"]
        assert names(read("karcher", {"a": {}, "b": {}}, base=None)) == ["a", "b"]

    def test_is_averaged_by_linear_where_the_recipe_weighs_all_models(self):
        """As mergekit: a base_model that is not listed is one more input, and its weight is asked for."""
        assert names(read("linear", {"a": W, "b": W}, weight=0.5)) == ["a", "b", "base"]
        assert names(read("linear", {"a": W, "b": W})) == ["a", "b"]

    def test_only_gives_names_and_files_to_linear_and_is_written_where_mergekit_does_not_look(self):
        recipe = read("linear", {"a": W, "b": W})
        written = yaml.safe_load(recipe_yaml(recipe))
        assert "base_model" not in written and written["dem"]["base"] == "base"
        assert parse_recipe(recipe_yaml(recipe)) == recipe and recipe.base == "base"

    @pytest.mark.parametrize(
        ("method", "needs"),
        [("ties", "adds differences to a base"), ("slerp", "has the base as an operand")],
    )
    def test_is_needed(self, method, needs):
        with pytest.raises(RecipeError, match=f"base_model is missing; {method} {needs}"):
            read(
                method,
                {"a": W if method == "ties" else {}},
                base=None,
                **({} if method == "ties" else {"t": 0.5}),
            )


class TestHowManyModels:
    @pytest.mark.parametrize(
        ("method", "models", "more", "message"),
        [
            (
                "slerp",
                "ab",
                {"t": 0.5},
                "slerp takes exactly 1 model beside the base, and 2 are given: a, b",
            ),
            (
                "model_stock",
                "a",
                {},
                "model_stock takes at least 2 models beside the base, and 1 are given: a",
            ),
            (
                "nuslerp",
                "abc",
                {},
                "nuslerp takes exactly 2 models beside the base, and 3 are given: a, b, c",
            ),
            ("nearswap", "ab", {"t": 0.1}, "nearswap takes exactly 1 model"),
        ],
    )
    def test_too_many_or_too_few_are_refused(self, method, models, more, message):
        given = W if method == "nuslerp" else {}
        with pytest.raises(RecipeError, match=message):
            read(method, dict.fromkeys(models, given), **more)

    def test_without_a_base_it_is_not_spoken_of(self):
        with pytest.raises(RecipeError, match="nuslerp takes exactly 2 models, and 1 are given: a"):
            read("nuslerp", {"a": W}, base=None)


class TestKeys:
    def test_a_model_may_have_what_is_each_models(self):
        recipe = read(
            "ties",
            {"a": {"weight": 1, "density": "5e-1"}},
            normalize=False,
            int8_mask=True,
            density=0.3,
        )
        assert recipe.models[0].parameters == {"weight": 1.0, "density": 0.5}
        assert recipe.parameters == {"normalize": False, "int8_mask": True, "density": 0.3}

    @pytest.mark.parametrize(
        ("method", "given", "more", "message"),
        [
            (
                "ties",
                {"weight": 1, "normalize": True},
                {},
                "models: a: unknown parameter 'normalize'; it belongs under param",
            ),
            (
                "ties",
                {"weight": 1, "densty": 1},
                {},
                "models: a: unknown parameter 'densty'; did you mean 'density'",
            ),
            ("sce", {"weight": 1}, {}, "models: a: unknown parameter 'weight'; sce has no ω"),
            ("sce", {}, {"weight": 1}, "parameters: unknown key 'weight'"),
            (
                "nearswap",
                {},
                {},
                "parameters.t is missing; for nearswap it is the largest change of an entry",
            ),
            (
                "ties",
                {"weight": 1},
                {"elect": "count"},
                "parameters: elect is 'count'; known: unweighted, weighted",
            ),
            ("ties", {"weight": 1}, {"gamma": 1}, "parameters: unknown key 'gamma'"),
            (
                "ties",
                {"weight": 1, "density": 3},
                {},
                "^models: a: density is 3; it must be between 0 and 1",
            ),
            (
                "ties",
                {"weight": 1, "density": [0.5, {"filter": "mlp", "value": 1.5}]},
                {},
                r"models: a: density\[0\] is 0.5, expected {filter",
            ),
            (
                "ties",
                {"weight": 1, "density": [{"filter": "mlp", "value": [0.5, 1.5]}]},
                {},
                r"models: a: density\[0\].value\[1\] is 1.5; it must be between 0 and 1",
            ),
            (
                "task_arithmetic",
                {"weight": 11},
                {"lambda": 11.0},
                "^parameters: lambda is 11.0; it must be between -10 and 10",
            ),
            ("breadcrumbs", {"weight": 1}, {"gama": 1}, "unknown key 'gama'; did you mean 'gamma'"),
        ],
    )
    def test_wrong_keys_are_refused(self, method, given, more, message):
        with pytest.raises(RecipeError, match=message):
            read(method, {"a": given}, **more)

    def test_words_may_vary_by_layer(self):
        recipe = read(
            "ties",
            {"a": W},
            elect=[{"filter": "mlp", "value": "unweighted"}, {"value": "weighted"}],
        )
        assert recipe.parameters["elect"][0]["value"] == "unweighted"
        with pytest.raises(RecipeError, match=r"elect\[0\].value is 'x'"):
            read("ties", {"a": W}, elect=[{"filter": "mlp", "value": "x"}])

    def test_every_recipe_comes_back_from_its_file(self):
        for recipe in (
            read(
                "ties", {"a": {"weight": 1, "density": 0.5}}, elect="unweighted", density=[0.1, 0.9]
            ),
            read("slerp", {"a": {}}, t=[{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]),
            read("karcher", {"a": {}, "b": {}}, max_iter=3),
            read("passthrough", {"a": {"scale": 0.5}}),
        ):
            again = parse_recipe(recipe_yaml(recipe))
            assert again == recipe and again.digest == recipe.digest


def test_what_two_models_share_is_written_out_twice():
    gradient = [0.0, 1.0]
    models = tuple(ModelEntry(name, name, {"weight": gradient}) for name in "ab")
    recipe = Recipe(base="base", models=models)
    assert "&" not in recipe_yaml(recipe) and parse_recipe(recipe_yaml(recipe)) == recipe


class TestAnotherMethod:
    def test_keeps_omegas_and_what_both_know(self):
        ties = read(
            "ties",
            {"a": {"weight": 0.5, "density": 0.3}, "b": W},
            **{"lambda": 2.0, "elect": "unweighted"},
        )
        plain = ties.with_method("task_arithmetic")
        assert plain.omegas == {"a": 0.5, "b": 1.0} and plain.parameters == {"lambda": 2.0}
        assert plain.models[0].parameters == {"weight": 0.5}
        assert ties.with_method("dare_ties", {"density": 0.2}).parameters == {"density": 0.2}
        assert ties.with_method("dare_ties").models[0].parameters["density"] == 0.3

    def test_without_omegas_and_back(self):
        stock = read("ties", {"a": W, "b": W}).with_method("model_stock")
        assert stock.omegas == {"a": None, "b": None}
        assert stock.with_method("task_arithmetic").omegas == {"a": 1.0, "b": 1.0}

    def test_keeps_an_omega_of_0(self):
        recipe = Recipe(base="base", models=(ModelEntry("a", "a", {"weight": 0.0}),))
        assert recipe.with_method("ties").omegas == {"a": 0.0}

    def test_methods_without_omegas_have_none_to_set(self):
        with pytest.raises(RecipeError, match="sce has no ω to set"):
            read("sce", {"a": {}}).with_omegas({"a": 1.0})

    def test_compose_gives_weights_only_where_they_play_a_part(self):
        assert Recipe.compose("base", {"a": "a"}, method="ram").models[0].parameters == {}


def test_formulas():
    assert (
        formula(read("ties", {"a": {"weight": -0.5}, "b": W}, density=0.2))
        == "Θ + ties(−0.50·Δa, 1.00·Δb; density 0.2)"
    )
    given = {"a": {"weight": 1, "density": 0.5}}
    assert (
        formula(read("ties", given, normalize=False))
        == "Θ + ties(1.00·Δa; density(model), normalize false)"
    )
    assert formula(read("slerp", {"a": {}}, t=0.5)) == "slerp(Θ, Θa; t 0.5)"
    assert formula(read("slerp", {"a": {}}, t=[0, 1])) == "slerp(Θ, Θa; t(layer))"
    assert (
        formula(read("ties", {"a": W}, elect="unweighted")) == "Θ + ties(1.00·Δa; elect unweighted)"
    )
    assert formula(read("ties", {"a": {"weight": [0, 1]}})) == "Θ + ties(ω(layer)·Δa)"
