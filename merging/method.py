"""What a merge method is: one pure function of one tensor, with a declared scope and typed parameters.

The folder `methods/` is the list of methods: a module there is a method, and nothing is registered anywhere. From the
signature of its `combine` come the sliders, the flags of the command line, the keys of the recipe and their checks.

A method module has

    PAPER     where the formula is from
    FORMULA   as it is shown to users
    SPACE     "deltas": combine takes the deltas Δ_i and returns the delta to add to the base; no vectors, no change.
              "weights": combine takes the fine-tuned weights Θ_i and returns weights.
    SCOPE     "element": any block of a tensor can be computed apart; "tensor": the whole tensor is needed
    combine(stack, omegas, site, *, …) -> Tensor
"""

import inspect
import math
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from torch import Tensor

from merging.errors import RecipeError, nearest

WEIGHT = "weight"
"""The recipe's key for ω: a parameter of each model, for every method so far."""


class Range(NamedTuple):
    """The values that a number may take, both ends included."""

    low: float
    high: float


class Param(NamedTuple):
    """One parameter of a method, read from the signature of its `combine`."""

    name: str
    type: type
    default: float | int | bool
    low: float
    high: float
    help: str


class Site(NamedTuple):
    """All that a method may know of where it works."""

    name: str
    """The tensor's name in the base's files."""
    base: Tensor
    """The base's values there, in the working dtype."""


def names() -> list[str]:
    """The merge methods there are."""
    from merging import methods

    return sorted(module.name for module in pkgutil.iter_modules(methods.__path__))


def load(name: str) -> ModuleType:
    """The module of a method.

    Raises:
        RecipeError: naming the nearest method that there is.
    """
    if name not in names():
        raise RecipeError(f"merge_method {name!r} is unknown; {nearest(name, names())}")
    return import_module(f"merging.methods.{name}")


def parameters(name: str) -> list[Param]:
    """The parameters of a method besides ω, in the order of its signature."""
    combine = load(name).combine
    hints = get_type_hints(combine, include_extras=True)
    found = []
    for parameter in inspect.signature(combine).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        hint = hints[parameter.name]
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        bounds = next((note for note in notes if isinstance(note, Range)), Range(-math.inf, math.inf))
        text = next((note for note in notes if isinstance(note, str)), "")
        # `lambda` is a keyword of Python and a key of mergekit's recipes.
        found.append(Param(parameter.name.rstrip("_"), kind, parameter.default, *bounds, text))
    return found


def arguments(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe keys and values -> keyword arguments of `combine`, complete with defaults and checked.

    Raises:
        RecipeError: for an unknown key, a wrong type or a value out of range.
    """
    known = {param.name: param for param in parameters(name)}
    if unknown := [key for key in given if key not in known]:
        raise RecipeError(f"{name} has no parameter {unknown[0]!r}; {nearest(unknown[0], [*known, WEIGHT])}")
    values = {param.name: checked(name, param, given.get(param.name, param.default)) for param in known.values()}
    return {"lambda_" if key == "lambda" else key: value for key, value in values.items()}


def checked(method: str, param: Param, value: Any) -> float | int | bool:
    """The value of one parameter, of its type and in its range.

    Raises:
        RecipeError: saying what was given and what is allowed.
    """
    where = f"{method}: {param.name} is {value!r}"
    if param.type is bool:
        if not isinstance(value, bool):
            raise RecipeError(f"{where}, expected true or false.")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecipeError(f"{where}, expected a finite number.")
    if not param.low <= value <= param.high:
        raise RecipeError(f"{where}, expected {param.low:g} to {param.high:g}.")
    number: float | int = param.type(value)
    return number
