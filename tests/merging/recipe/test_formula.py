"""A recipe as one line of algebra."""

import pytest

from merging.recipe import ModelEntry, Recipe
from merging.recipe.formula import formula


def recipe(omegas, method="task_arithmetic", **parameters):
    models = tuple(
        ModelEntry(f"m/{name}", name, {"weight": omega}) for name, omega in omegas.items()
    )
    return Recipe(base="b", models=models, method=method, parameters=parameters)


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (recipe({"cot": 0.7, "p3": -0.25}), "Θ + 0.70·Δcot − 0.25·Δp3"),
        (recipe({"cot": -0.7, "p3": 0.25}), "Θ − 0.70·Δcot + 0.25·Δp3"),
        (recipe({"cot": [0, 1]}), "Θ + ω(layer)·Δcot"),
        (recipe({"cot": 1.0, "p3": 1.0}, normalize=True), "Θ + (1.00·Δcot + 1.00·Δp3) / 2.00"),
        (recipe({"cot": [0, 1]}, normalize=True), "Θ + (ω(layer)·Δcot) / Σω"),
        (recipe({"cot": 1.0}, **{"lambda": 0.5}), "Θ + 0.5·(1.00·Δcot)"),
        (recipe({"cot": 1.0}, **{"lambda": -2.0}), "Θ − 2·(1.00·Δcot)"),
        (recipe({"cot": 1.0}, **{"lambda": [0.5, 1.0]}), "Θ + λ(layer)·(1.00·Δcot)"),
        (recipe({"cot": 0.5, "p3": 0.25}, "linear"), "(0.50·Θcot + 0.25·Θp3) / 0.75"),
        (recipe({"cot": 0.5}, "linear", normalize=False), "0.50·Θcot"),
    ],
)
def test_formula(made, line):
    assert formula(made) == line
