"""What a merge method is: one pure function of one tensor, with a declared scope and typed parameters.

The folder `methods/` is the list of methods: a module there is a method, and nothing is registered anywhere. From the
signature of its `combine` come the sliders, the flags of the command line, the keys of the recipe and their checks.

A method module has

    PAPER     where the formula is from
    FORMULA   as it is shown to users
    SPACE     "deltas": combine takes the deltas Δ_i and returns the delta to add to the base; no vectors, no change.
              "weights": combine takes the fine-tuned weights Θ_i and returns weights.
              "either": deltas where the recipe names a base, weights where it names none.
    SCOPE     "element": any block of a tensor can be computed apart; "tensor": the whole tensor is needed
    combine(stack, omegas, site, *, …) -> Tensor

and may have

    VECTORS   the least and the greatest number of vectors; (1, None) where it says nothing
    WEIGHTED  False where ω plays no part
    ON_DEVICE True where combine runs wherever stack and site are, with the ω on the processor: nothing is drawn there, goes
              through numpy or is divided by a number, of which CUDA takes the reciprocal (see task_arithmetic.divided)
    LINEAR    True where the result is a sum of the stack, each with a factor that the values in it do not change
    BASE      for SPACE "weights": "unused" (the default), "operand" where combine reads site.base, "vector" where the
              base is one more of the Θ_i
    STATISTICS  the kind of statistics that it reads in site.statistics; each model's `statistics` names the file that
              holds them, see merging.inputs.statistics
    IGNORED   keys that mergekit's recipes may have for this method and that change nothing, there as here
    scale(omegas, *, …) -> divisor, factor: where combine is nothing but factor · Σ ω_i x_i / divisor, what those two are;
              a weighted sum can be computed in one pass, see merging.engine.kernel
    refusal(omegas, arguments) -> str | None: why these numbers cannot be combined, for the reader

`combine` may overwrite the stack, which is its own, and nothing else. A parameter annotated PerVector has one value
for each vector; one without a default must be in the recipe.
"""

import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from torch import Tensor

from merging.errors import RecipeError
from plumbing.suggest import nearest

WEIGHT = "weight"
"""The recipe's key for ω, a parameter of each model."""
STATISTICS = "statistics"
"""The recipe's key for a model's file of statistics, a path."""
PerVector = tuple[float, ...]
"""The type of a parameter that has a value of its own for each vector, in the order of the stack."""

Value = float | int | bool | str


class Range(NamedTuple):
    """The values that a number may take, both ends included."""

    low: float
    high: float


class Param(NamedTuple):
    """One parameter of a method, read from the signature of its `combine`."""

    name: str
    type: type
    default: Value | None
    """None where the recipe must give it."""
    low: float
    high: float
    help: str
    choices: tuple[str, ...] = ()
    per_vector: bool = False
    file: bool = False
    """Whether the value is the path of a file, which the engine reads, and which combine does not get."""

    @property
    def keyword(self) -> str:
        """Its name in Python: `lambda` is a keyword of Python and a key of mergekit's recipes."""
        return "lambda_" if self.name == "lambda" else self.name


class Statistic(NamedTuple):
    """What is known of one model's use of a tensor; see merging.inputs.statistics."""

    values: Tensor
    """In the working dtype: the Fisher information in the shape of the stack's rows, or a Gram matrix (inputs, inputs)."""
    norm: float = 1.0
    """The L2 norm of such values over all tensors of the model."""
    axis: int = 1
    """Of a Gram matrix: along which axis of the tensor the inputs lie."""


class Site(NamedTuple):
    """All that a method may know of where it works."""

    name: str
    """The tensor's name in the base's files."""
    base: Tensor
    """The base's values there, in the working dtype."""
    depth: float | None = None
    """i/(L−1) of the tensor's layer, from 0 to 1; None outside the layers."""
    seeds: tuple[int, ...] = ()
    """A seed for each vector, from the recipe's seed, the tensor's name and the vector's name only."""
    statistics: tuple[Statistic | None, ...] = ()
    """For each vector, for methods that declare STATISTICS; all None where nothing was measured of the tensor."""


@cache
def names() -> tuple[str, ...]:
    """The merge methods there are."""
    from merging import methods

    return tuple(
        sorted(
            module.name
            for module in pkgutil.iter_modules(methods.__path__)
            if module.name[0] != "_"
        )
    )


Role = Literal["origin", "optional", "unused", "operand", "vector"]


@dataclass(frozen=True)
class Method:
    """A merge method: its function, and all that the rest of the program has to know of it.

    Attributes:
        name: its key in recipes, the name of its file.
        combine: the function; see this module's docstring.
        paper: where the formula is from.
        formula: as it is shown to users.
        space: what `combine` takes and returns; see SPACE.
        scope: how much of a tensor it needs at once; see SCOPE.
        parameters: besides ω: the file that it may need, then those of its signature in their order.
        vectors: the least and the greatest number of vectors that it takes; None for no limit.
        weighted: whether ω plays a part.
        linear: whether it is a sum of its vectors, each with a factor that the values in it do not change.
        base_role: what the base is to it: where deltas begin ("origin"), perhaps that ("optional"), only the source of
            names ("unused"), an operand ("operand"), or one more of the models ("vector").
        statistics: the kind of statistics of each model that it needs; None if it needs none.
        ignored: keys that mergekit accepts for it and that change nothing, there as here.
        on_device: whether `combine` runs on an accelerator.
        scale: divisor and factor of a method that is nothing but a weighted sum; else None.
        refusal: why given numbers cannot be combined; None if it can combine all.
        closed_form: ω computed from the squared lengths of the vectors; None if ω are the recipe's.
    """

    name: str
    combine: Callable[..., Tensor]
    paper: str
    formula: str
    space: Literal["deltas", "weights", "either"]
    scope: Literal["element", "tensor"]
    parameters: tuple[Param, ...] = ()
    vectors: tuple[int, int | None] = (1, None)
    weighted: bool = True
    linear: bool = False
    base_role: Role = "origin"
    statistics: str | None = None
    ignored: tuple[str, ...] = ()
    on_device: bool = False
    scale: Callable[..., tuple[Any, Any]] | None = None
    refusal: Callable[[tuple[float, ...], Mapping[str, Any]], str | None] | None = None
    closed_form: Callable[[tuple[float, ...]], tuple[float, ...]] | None = None

    def default(self, parameter: str) -> Value | None:
        """The default of a parameter; None if the method has no such parameter, or no default for it."""
        return next((param.default for param in self.parameters if param.name == parameter), None)

    def arguments(self, given: Mapping[str, Any], vectors: int = 1) -> dict[str, Any]:
        """Recipe keys and values -> keyword arguments of `combine`, complete with defaults and checked.

        Args:
            given: values by key; of a parameter that is PerVector one for all, or a tuple with one for each.
            vectors: how many vectors are combined.

        Raises:
            RecipeError: for an unknown key, a missing one, a wrong type or a value out of range.
        """
        known = {param.name: param for param in self.parameters}
        if unknown := [key for key in given if key not in known]:
            raise RecipeError(
                f"{self.name} has no parameter {unknown[0]!r}; {nearest(unknown[0], [*known, WEIGHT])}"
            )
        values: dict[str, Any] = {}
        for param in known.values():
            if param.file:
                continue
            value = given.get(param.name, param.default)
            if value is None:
                raise RecipeError(
                    f"{self.name}: parameters.{param.name} is missing; it is {param.help}."
                )
            if param.per_vector:
                each = value if isinstance(value, tuple) else (value,) * vectors
                values[param.keyword] = tuple(_checked(self.name, param, own) for own in each)
            else:
                values[param.keyword] = _checked(self.name, param, value)
        return values


@cache
def load(name: str) -> Method:
    """The method of a name.

    Raises:
        RecipeError: naming the nearest method that there is.
    """
    if name not in names():
        raise RecipeError(f"merge_method {name!r} is unknown; {nearest(name, names())}")
    return of_module(name, vars(import_module(f"merging.methods.{name}")))


def of_module(name: str, facts: Mapping[str, Any]) -> Method:
    """A method from what its module says.

    Args:
        name: of the method.
        facts: the module's names and values.
    """
    of_deltas: Role = "optional" if facts["SPACE"] == "either" else "origin"
    statistics: str | None = facts.get("STATISTICS")
    return Method(
        name=name,
        combine=facts["combine"],
        paper=facts["PAPER"],
        formula=facts["FORMULA"],
        space=facts["SPACE"],
        scope=facts["SCOPE"],
        parameters=_parameters(facts["combine"], statistics),
        vectors=facts.get("VECTORS", (1, None)),
        weighted=facts.get("WEIGHTED", True),
        linear=facts.get("LINEAR", False),
        base_role=facts.get("BASE", "unused") if facts["SPACE"] == "weights" else of_deltas,
        statistics=statistics,
        ignored=("int8_mask", *facts.get("IGNORED", ())),
        on_device=facts.get("ON_DEVICE", False),
        scale=facts.get("scale"),
        refusal=facts.get("refusal"),
        closed_form=facts.get("closed_form"),
    )


def _parameters(combine: Callable[..., Tensor], statistics: str | None) -> tuple[Param, ...]:
    hints = get_type_hints(combine, include_extras=True)
    params = []
    if statistics:
        wrote = f"the file that `dem statistics --kind {statistics}` wrote of this model"
        params.append(
            Param(STATISTICS, str, None, -math.inf, math.inf, wrote, per_vector=True, file=True)
        )
    for parameter in inspect.signature(combine).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        hint, *notes = get_args(hints[parameter.name])
        bounds = next(
            (note for note in notes if isinstance(note, Range)), Range(-math.inf, math.inf)
        )
        text = next(note for note in notes if isinstance(note, str))
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        per_vector = hint == PerVector
        kind = float if per_vector else str if choices else hint
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        default = default[0] if per_vector and default is not None else default
        params.append(
            Param(parameter.name.rstrip("_"), kind, default, *bounds, text, choices, per_vector)
        )
    return tuple(params)


def _checked(method: str, param: Param, value: Any) -> Value:
    """The value of one parameter, of its type and in its range.

    Raises:
        RecipeError: saying what was given and what is allowed.
    """
    where = f"{method}: {param.name} is {value!r}"
    if param.choices:
        if value not in param.choices:
            raise RecipeError(f"{where}; {nearest(str(value), param.choices)}")
        return str(value)
    if param.type is bool:
        if not isinstance(value, bool):
            raise RecipeError(f"{where}, expected true or false.")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecipeError(f"{where}, expected a finite number.")
    if not param.low <= value <= param.high:
        raise RecipeError(f"{where}, expected {param.low:g} to {param.high:g}.")
    if param.type is int and value != int(value):
        raise RecipeError(f"{where}, expected a whole number.")
    number: float | int = param.type(value)
    return number
