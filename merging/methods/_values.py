"""The plain values of a method: its parameters, and what it may know of the tensor it works on."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

PerVector = tuple[float, ...]
"""The type of a parameter with one value per vector, in the order of the stack."""

Value = float | int | bool | str
"""What one parameter may hold."""


class Range(NamedTuple):
    """The values that a number may take, both ends included."""

    low: float
    high: float


class Param(NamedTuple):
    """One parameter of a method, read from the signature of its `combine`.

    Attributes:
        name: the recipe's key.
        type: float, int, bool or str.
        default: the default; None if the recipe must give a value.
        low: the smallest value allowed; −∞ if the parameter is not a number.
        high: the largest value allowed; ∞ if the parameter is not a number.
        help: what it does, in words, for the page and the command line.
        choices: the words that it may be; () if it is not a word.
        per_vector: whether each vector may have its own value.
        file: whether the value is the path of a file. The engine reads that file, and `combine`
            does not get the parameter.
    """

    name: str
    type: type
    default: Value | None
    low: float
    high: float
    help: str
    choices: tuple[str, ...] = ()
    per_vector: bool = False
    file: bool = False

    @property
    def keyword(self) -> str:
        """Its name in Python: `lambda_` for mergekit's key `lambda`, which Python reserves."""
        return "lambda_" if self.name == "lambda" else self.name


class Statistic(NamedTuple):
    """What was measured of one model's use of one tensor; see merging.inputs.statistics.

    Attributes:
        values: in the working dtype, either the Fisher information, in the shape of one row of
            the stack, or a Gram matrix of shape (inputs, inputs).
        norm: the L2 norm of such values over all tensors of the model.
        axis: for a Gram matrix, the axis of the tensor along which the inputs lie.
    """

    values: Tensor
    norm: float = 1.0
    axis: int = 1


class Site(NamedTuple):
    """All that a method may know of the tensor it works on.

    Attributes:
        name: the tensor's name in the base's files.
        base: the base's values of the tensor, in the working dtype.
        depth: i/(L−1) for layer i of L layers, from 0 to 1; None outside the layers.
        seeds: one seed per vector, made from the recipe's seed, the tensor's name and the
            vector's name only, so that a mask does not depend on the other vectors.
        statistics: one per vector, for methods that declare STATISTICS; all None if nothing was
            measured of this tensor.
        windows: what to keep of each vector's block, for methods that declare `ranks`; () for a
            tensor that comes whole.
        survey: reads a whole tensor of which the stack is a block; see merging.methods._survey.
            None for a tensor that comes whole.
        start: the first element of a block in the flattened tensor.
        columns: the elements in a row of the tensor of which a flat stack is a block; 0 if the
            stack has the tensor's shape.
    """

    name: str
    base: Tensor
    depth: float | None = None
    seeds: tuple[int, ...] = ()
    statistics: tuple[Statistic | None, ...] = ()
    windows: tuple[Any, ...] = ()
    survey: Callable[..., Any] | None = None
    start: int = 0
    columns: int = 0
