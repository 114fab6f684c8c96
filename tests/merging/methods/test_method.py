"""The contract of methods: what is read from a signature, and what is refused."""

import math
from pathlib import Path

import pytest

from merging.errors import RecipeError
from merging.methods import _contract
from merging.methods._values import Param


def test_the_folder_is_the_list():
    from merging import methods

    assert set(_contract.names()) == {
        path.stem for path in Path(methods.__path__[0]).glob("[!_]*.py")
    }
    assert list(_contract.names()) == sorted(_contract.names())


def test_parameters_come_from_the_signature():
    normalize, lambda_ = _contract.load("task_arithmetic").parameters
    assert normalize == Param(
        "normalize", bool, False, -math.inf, math.inf, "divide by the sum of the ω"
    )
    assert lambda_ == Param("lambda", float, 1.0, -10.0, 10.0, "a factor on the whole sum")
    density, *_, elect, _ = _contract.load("ties").parameters
    assert (density.name, density.default, density.per_vector, density.low, density.high) == (
        "density",
        1.0,
        True,
        0,
        1,
    )
    assert (elect.name, elect.type, elect.choices) == ("elect", str, ("weighted", "unweighted"))
    (t,) = _contract.load("slerp").parameters
    assert t.default is None


def test_arguments_are_complete_and_named_as_in_python():
    assert _contract.load("task_arithmetic").arguments({"lambda": 2}) == {
        "normalize": False,
        "lambda_": 2.0,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lamda": 1.0}, "task_arithmetic has no parameter 'lamda'; did you mean 'lambda'"),
        ({"normalize": 1}, "normalize is 1, expected true or false"),
        ({"lambda": True}, "lambda is True, expected a finite number"),
        ({"lambda": math.nan}, "lambda is nan, expected a finite number"),
        ({"lambda": 11}, "lambda is 11; it must be between -10 and 10"),
    ],
)
def test_wrong_arguments_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        _contract.load("task_arithmetic").arguments(given)


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(
        RecipeError,
        match="merge_method 'task_aritmetic' is unknown; did you mean 'task_arithmetic'",
    ):
        _contract.load("task_aritmetic")


def test_each_vector_has_its_value():
    assert _contract.load("ties").arguments({"density": 0.5}, 3)["density"] == (0.5, 0.5, 0.5)
    assert _contract.load("ties").arguments({"density": (0.5, 0.25)}, 2)["density"] == (0.5, 0.25)
    with pytest.raises(RecipeError, match="ties: density is 1.5; it must be between 0 and 1"):
        _contract.load("ties").arguments({"density": (0.5, 1.5)}, 2)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("slerp", {}, "slerp: parameters.t is missing; it is how far from the base"),
        ("karcher", {"max_iter": 2.5}, "karcher: max_iter is 2.5, expected a whole number"),
        ("ties", {"elect": "weigted"}, "ties: elect is 'weigted'; did you mean 'weighted'"),
    ],
)
def test_more_wrong_arguments(name, given, message):
    with pytest.raises(RecipeError, match=message):
        _contract.load(name).arguments(given)


def test_roles_of_the_base_and_numbers_of_vectors():
    roles = {
        name: _contract.load(name).base_role
        for name in ("ties", "nuslerp", "linear", "slerp", "karcher")
    }
    assert roles == {
        "ties": "origin",
        "nuslerp": "optional",
        "linear": "unused",
        "slerp": "operand",
        "karcher": "vector",
    }
    assert [_contract.load(name).vectors for name in ("ties", "slerp", "model_stock")] == [
        (1, None),
        (1, 1),
        (2, None),
    ]
    assert [_contract.load(name).weighted for name in ("ties", "sce")] == [True, False]
    assert (
        _contract.load("ties").default("normalize") is True
        and _contract.load("sce").default("normalize") is None
    )
    assert _contract.load("task_arithmetic").ignored == ("int8_mask", "density", "rescale")
