"""What a merge method is: a pure function of one tensor with a declared scope and parameters.

The folder `methods/` is the list of methods: each module there whose name does not begin with `_`
is one, and nothing is registered anywhere. The sliders, the flags of the command line, the keys of
the recipe and their checks all come from the signature of its `combine`.

A method module has

    PAPER     where the formula is from: links, the first of them to the paper
    FORMULA   the formula as users read it
    SPACE     "deltas": combine takes the deltas Δᵢ and returns the delta that is added to the base.
              Deltas of zeros must give zeros.
              "weights": combine takes the fine-tuned weights Θᵢ and returns weights.
              "either": deltas if the recipe names a base, otherwise weights.
    SCOPE     "element": any block of a tensor can be computed by itself
              "tensor": combine needs the whole tensor
    combine(stack, omegas, site, *, …) -> Tensor
              stack (vectors, *shape) and omegas (vectors,) are in the working dtype, float32 or
              float64; the result has the shape and dtype of one vector

and may have

    VECTORS   the least and the greatest number of vectors; (1, None) if not given
    WEIGHTED  False if the method does not use ω
    ON_DEVICE True if combine can run where stack and site are, with the ω on the CPU. Then it draws
              no random numbers, does not use numpy, and divides by a number only through
              _sums.divide, because CUDA would multiply by the number's reciprocal.
    DRAWS     the number of the stream, if combine draws random numbers; see _random_masks.STREAM
    BY_ROWS   True if a block must have whole rows; see _chunks.row_length
    BY_CHUNKS True if a block must have whole chunks; see _chunks.CHUNK
    LINEAR    True if the result is a sum of the stack, each vector with a factor that does not
              depend on the values in it
    BASE      for SPACE "weights": "unused" (the default), "operand" if combine reads site.base,
              "vector" if the base is one more of the Θᵢ
    STATISTICS  the kind of statistics that combine reads in site.statistics. Each model's key
              `statistics` names the file that holds them; see merging.inputs.statistics
    IGNORED   keys that mergekit's recipes may have for this method and that change nothing, neither
              there nor here
    scale(omegas, *, …) -> divisor, factor: given if combine is just factor · Σ ωᵢxᵢ / divisor. Such
              a sum can be computed in one pass; see merging.engine.kernel
    factors(stack, omegas, site, *, …) -> Tensor: given with in_blocks if combine is a sum of the
              vectors, for tensors that come in blocks: one factor in float64 for each vector, after
              one for the base if BASE is "operand". Such a sum takes one pass as well
    refusal(omegas, arguments) -> str | None: why these numbers cannot be combined, as users read it
    closed_form(squares) -> omegas: computes ω from the squared lengths of the vectors
    in_blocks(shape, depth, arguments) -> bool: for SCOPE "tensor", which tensors are computed block
              by block all the same. combine then gets flat stacks, and learns what it must know of
              the whole tensors through _survey.surveyed
    ranks(size, arguments) -> the ranks that each vector keeps of so many entries, None for all:
              given with in_blocks by methods that trim. combine then finds them in site.windows

`combine` may overwrite the stack, which belongs to it, and nothing else. A parameter annotated
PerVector has one value per vector; one without a default must be in the recipe.
"""

import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from merging.errors import RecipeError
from merging.methods._values import Param, PerVector, Range, Value
from plumbing.suggest import nearest

WEIGHT = "weight"
"""The recipe's key for ω, a parameter of each model."""
STATISTICS = "statistics"
"""The recipe's key for the path of a model's file of statistics."""


@cache
def names() -> tuple[str, ...]:
    """Returns the names of all merge methods, in alphabetical order."""
    from merging import methods

    return tuple(
        sorted(
            module.name
            for module in pkgutil.iter_modules(methods.__path__)
            if module.name[0] != "_"
        )
    )


Role = Literal["origin", "optional", "unused", "operand", "vector"]
"""What the base is to a method; see `Method.base_role`."""


@dataclass(frozen=True)
class Method:
    """A merge method: its function, and all that the rest of the program must know about it.

    Attributes:
        name: its key in recipes, and the name of its file.
        combine: the function; see this module's docstring.
        paper: where the formula is from.
        formula: the formula as users read it.
        space: what `combine` takes and returns; see SPACE.
        scope: how much of a tensor `combine` needs at once; see SCOPE.
        parameters: all but ω: the file that it may need, then those of the signature, in order.
        vectors: the least and the greatest number of vectors; None for no upper limit.
        weighted: whether the method uses ω.
        linear: whether the result is a sum of the vectors, each with a factor that does not depend
            on the values in it.
        draws: the number of the stream of its random numbers; 0 if it draws none.
        by_rows: whether blocks have whole rows.
        by_chunks: whether blocks have whole chunks.
        base_role: "origin": deltas begin at the base. "optional": so they do if there is a base.
            "unused": the base only gives names and files. "operand": the formula uses its values.
            "vector": it is one more of the models.
        statistics: the kind of statistics of each model that it needs; None if it needs none.
        ignored: keys that mergekit accepts for it and that change nothing, neither there nor here.
        on_device: whether `combine` can run on an accelerator.
        scale: returns divisor and factor of a method that is just a weighted sum; otherwise None.
        factors: returns the factors of a method whose result is a sum of the vectors with factors
            that depend on whole tensors; otherwise None.
        refusal: returns why given numbers cannot be combined; None if it can combine all.
        closed_form: computes ω from the squared lengths of the vectors; None if the recipe gives ω.
        in_blocks: returns whether a tensor of some shape and depth is computed block by block
            although the scope is "tensor"; None if none is.
        ranks: returns the ranks, by magnitude, that each vector keeps; None if it does not trim.
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
    draws: int = 0
    by_rows: bool = False
    by_chunks: bool = False
    base_role: Role = "origin"
    statistics: str | None = None
    ignored: tuple[str, ...] = ()
    on_device: bool = False
    scale: Callable[..., tuple[Any, Any]] | None = None
    factors: Callable[..., Tensor] | None = None
    refusal: Callable[[tuple[float, ...], Mapping[str, Any]], str | None] | None = None
    closed_form: Callable[[tuple[float, ...]], tuple[float, ...]] | None = None
    in_blocks: Callable[[tuple[int, ...], float | None, Mapping[str, Any]], bool] | None = None
    ranks: Callable[[int, Mapping[str, Any]], tuple[tuple[int, int] | None, ...]] | None = None

    def default(self, parameter: str) -> Value | None:
        """Returns a parameter's default; None if there is no default or no such parameter."""
        return next((param.default for param in self.parameters if param.name == parameter), None)

    def arguments(self, raw: Mapping[str, Any], vectors: int = 1) -> dict[str, Any]:
        """Turns recipe keys and values into keyword arguments of `combine`, checked, with defaults.

        Args:
            raw: value by key. A PerVector parameter has one value for all vectors, or a tuple with
                one per vector.
            vectors: how many vectors are combined.

        Raises:
            RecipeError: an unknown key, a missing one, a wrong type or a value out of range.
        """
        params = {param.name: param for param in self.parameters}
        if unknown := [key for key in raw if key not in params]:
            hint = nearest(unknown[0], [*params, WEIGHT])
            raise RecipeError(f"{self.name} has no parameter {unknown[0]!r}; {hint}")
        values: dict[str, Any] = {}
        for param in params.values():
            if param.file:
                continue
            value = raw.get(param.name, param.default)
            if value is None:
                raise RecipeError(
                    f"{self.name}: parameters.{param.name} is missing; it is {param.help}."
                )
            if param.per_vector:
                each = value if isinstance(value, tuple) else (value,) * vectors
                values[param.keyword] = tuple(_check(self.name, param, own) for own in each)
            else:
                values[param.keyword] = _check(self.name, param, value)
        return values


@cache
def load(name: str) -> Method:
    """Loads a merge method by its name.

    Raises:
        RecipeError: there is no such method; the message names the nearest one.
    """
    # Only a name from the list is imported. A recipe may be a stranger's, and import_module would
    # follow any dotted path.
    if name not in names():
        raise RecipeError(f"merge_method {name!r} is unknown; {nearest(name, names())}")
    return method_of_module(name, vars(import_module(f"merging.methods.{name}")))


def method_of_module(name: str, module: Mapping[str, Any]) -> Method:
    """Makes a Method from the constants and functions of its module.

    Args:
        name: the method's name.
        module: the module's names and values, as `vars` returns them.
    """
    of_deltas: Role = "optional" if module["SPACE"] == "either" else "origin"
    statistics: str | None = module.get("STATISTICS")
    return Method(
        name=name,
        combine=module["combine"],
        paper=module["PAPER"],
        formula=module["FORMULA"],
        space=module["SPACE"],
        scope=module["SCOPE"],
        parameters=_parameters(module["combine"], statistics),
        vectors=module.get("VECTORS", (1, None)),
        weighted=module.get("WEIGHTED", True),
        linear=module.get("LINEAR", False),
        draws=module.get("DRAWS", 0),
        by_rows=module.get("BY_ROWS", False),
        by_chunks=module.get("BY_CHUNKS", False),
        base_role=module.get("BASE", "unused") if module["SPACE"] == "weights" else of_deltas,
        statistics=statistics,
        # In mergekit int8_mask only changes the dtype of scratch memory, whatever the method.
        ignored=("int8_mask", *module.get("IGNORED", ())),
        on_device=module.get("ON_DEVICE", False),
        scale=module.get("scale"),
        factors=module.get("factors"),
        refusal=module.get("refusal"),
        closed_form=module.get("closed_form"),
        in_blocks=module.get("in_blocks"),
        ranks=module.get("ranks"),
    )


def _parameters(combine: Callable[..., Tensor], statistics: str | None) -> tuple[Param, ...]:
    """Reads the parameters of a method from the annotations of its `combine`."""
    hints = get_type_hints(combine, include_extras=True)
    params = []
    if statistics:
        text = f"the file that `dem statistics --kind {statistics}` wrote for this model"
        params.append(
            Param(STATISTICS, str, None, -math.inf, math.inf, text, per_vector=True, file=True)
        )
    for parameter in inspect.signature(combine).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        hint, *notes = get_args(hints[parameter.name])
        bounds = next(
            (note for note in notes if isinstance(note, Range)), Range(-math.inf, math.inf)
        )
        # No default: a parameter without a help text is a fault of its module, found on loading.
        text = next(note for note in notes if isinstance(note, str))
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        per_vector = hint == PerVector
        kind = float if per_vector else str if choices else hint
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        # A PerVector default is written as a tuple of one, so that combine can be called by itself.
        default = default[0] if per_vector and default is not None else default
        params.append(
            Param(parameter.name.rstrip("_"), kind, default, *bounds, text, choices, per_vector)
        )
    return tuple(params)


def _check(method: str, param: Param, value: Any) -> Value:
    """Returns the value of one parameter, of its type and in its range.

    Raises:
        RecipeError: a wrong type or a value out of range; says what was given and what is allowed.
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
    # For Python True is the number 1, but whoever writes `density: true` means something else.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecipeError(f"{where}, expected a finite number.")
    if not param.low <= value <= param.high:
        raise RecipeError(f"{where}; it must be between {param.low:g} and {param.high:g}.")
    # The numbers of a checked recipe are all floats (2 is 2.0), so the value tells whether one is
    # whole, not its type.
    if param.type is int and value != int(value):
        raise RecipeError(f"{where}, expected a whole number.")
    number: float | int = param.type(value)
    return number
