"""The parts of a formula, joined again, are the formula."""

import pytest

from merging import Recipe
from merging.methods import _contract as methods
from merging.recipe.formula import formula, omega_text
from workbench.line.formula_parts import formula_parts
from workbench.session.standing import Choice, live_methods


def joined(recipe):
    words = ""
    for part in formula_parts(recipe)["parts"]:
        if "text" in part:
            words += part["text"]
            continue
        omega = part["omega"]
        if omega is not None:
            words += part["signs"][omega < 0] + omega_text(abs(omega)) + "·"
        words += part["symbol"] + part["name"]
    return words


REQUIRED = {"slerp": {"t": 0.25}, "nearswap": {"t": 0.01}}


@pytest.mark.parametrize("method", live_methods(3))
def test_the_formula_of_every_live_method_is_the_recipes(session, method):
    least, most = methods.load(method).vectors
    for omegas in ((0.5, -0.25, 0.75), (-0.5, 0.0, 0.75), (-0.5, 0.0, 0.0)):
        taking = [omega for omega in omegas if omega]
        if least <= len(taking) <= (most or len(taking)):
            recipe = session.recipe(omegas, Choice(method, REQUIRED.get(method, {})))
            assert joined(recipe) == formula(recipe)


def test_names_that_look_like_terms_stay_names():
    names = ["<img src=x>", "Δ0.50·Δ", "b"]
    recipe = Recipe.compose(
        "base", dict.fromkeys(names, "a"), dict.fromkeys(names, 0.5), method="ties"
    )
    terms = [part["name"] for part in formula_parts(recipe)["parts"] if "name" in part]
    assert terms == names and joined(recipe) == formula(recipe)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("task_arithmetic", {}),
        ("task_arithmetic", {"lambda": -0.5}),
        ("linear", {}),
        ("ties", {"density": 0.2}),
        ("karcher", {}),
        ("multislerp", {}),
    ],
)
@pytest.mark.parametrize("omegas", [(0.7, -0.4), (-0.127, 0.0), (1e-7, 2.0)])
def test_the_parts_join_to_the_formula(method, parameters, omegas):
    weighted = method != "karcher"
    recipe = Recipe.compose(
        "base",
        {"cot": "a", "Δp3": "b"},
        dict(zip(("cot", "Δp3"), omegas, strict=True)) if weighted else None,
        method=method,
        parameters=parameters,
    )
    assert joined(recipe) == formula(recipe)


def test_only_a_plain_sum_is_set_in_columns():
    plain = Recipe.compose("base", {"cot": "a"}, {"cot": 0.5})
    assert formula_parts(plain)["columns"] is True
    ties = Recipe.compose("base", {"cot": "a"}, {"cot": 0.5}, method="ties")
    assert formula_parts(ties)["columns"] is False


def test_a_term_has_the_omega_with_all_its_digits():
    recipe = Recipe.compose("base", {"cot": "a"}, {"cot": 0.127})
    terms = [part for part in formula_parts(recipe)["parts"] if "name" in part]
    assert terms == [{"name": "cot", "omega": 0.127, "symbol": "Δ", "signs": ["+ ", "− "]}]
    assert "0.127" in formula(recipe)
