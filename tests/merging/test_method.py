"""The contract of methods: what is read from a signature, and what is refused."""

import math

import pytest

from merging import method
from merging.errors import RecipeError


def test_the_folder_is_the_list():
    assert method.names() == ["linear", "task_arithmetic"]


def test_parameters_come_from_the_signature():
    normalize, lambda_ = method.parameters("task_arithmetic")
    assert normalize == ("normalize", bool, False, -math.inf, math.inf, "divide by the sum of the ω")
    assert lambda_ == ("lambda", float, 1.0, -10.0, 10.0, "a factor on the whole sum")


def test_arguments_are_complete_and_named_as_in_python():
    assert method.arguments("task_arithmetic", {"lambda": 2}) == {"normalize": False, "lambda_": 2.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lamda": 1.0}, "task_arithmetic has no parameter 'lamda'; did you mean 'lambda'"),
        ({"normalize": 1}, "normalize is 1, expected true or false"),
        ({"lambda": True}, "lambda is True, expected a finite number"),
        ({"lambda": math.nan}, "lambda is nan, expected a finite number"),
        ({"lambda": 11}, "lambda is 11, expected -10 to 10"),
    ],
)
def test_wrong_arguments_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        method.arguments("task_arithmetic", given)


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(RecipeError, match="merge_method 'task_aritmetic' is unknown; did you mean 'task_arithmetic'"):
        method.load("task_aritmetic")
