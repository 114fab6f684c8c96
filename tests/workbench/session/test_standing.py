"""A method and its parameters as the page's fields give them: checked in the engine's words, and equal when they mean the same."""

import pytest

from merging.errors import RecipeError
from merging.methods import _contract as methods
from workbench.session.standing import PLAIN, Choice, file_only_methods, live_methods


def test_only_what_differs_from_the_defaults_is_kept():
    assert Choice.of("ties", {"density": 0.2, "normalize": True, "lambda": 1.0}) == Choice(
        "ties", {"density": 0.2}
    )
    assert Choice.of("task_arithmetic", {"lambda": 1, "normalize": False}) == PLAIN
    assert Choice.of("karcher", {"max_iter": 3.0}).parameters == {"max_iter": 3}


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        ("ties", {"density": 3}, "ties: density is 3; it must be between 0 and 1"),
        ("ties", {"density": float("nan")}, "expected a finite number"),
        (
            "ties",
            {"density": None},
            "ties: parameters.density is missing; it is the share of the entries",
        ),
        ("ties", {"elect": "loud"}, "elect is 'loud'; known: unweighted, weighted"),
        ("karcher", {"max_iter": 2.5}, "expected a whole number"),
        ("slerp", {}, "slerp: parameters.t is missing; it is how far from the base"),
        ("slerp", {"t": None}, "slerp: parameters.t is missing"),
        ("linear", {"normalise": True}, "did you mean 'normalize'"),
        ("tie", {}, "did you mean 'ties'"),
    ],
)
def test_a_bad_field_is_refused_in_the_words_of_the_engine(method, values, words):
    with pytest.raises(RecipeError, match=words):
        Choice.of(method, values)


def test_what_is_offered_depends_on_how_many_vectors_are_open():
    assert live_methods(5)[:2] == ["task_arithmetic", "linear"]
    assert sorted([*live_methods(5), *file_only_methods()]) == list(methods.names())
    assert file_only_methods() == ["fisher", "regmean"]
    assert {"nuslerp", "model_stock"} == set(live_methods(5)) - set(live_methods(1))
