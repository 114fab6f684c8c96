"""Projects gradients of many examples to d numbers each, one parameter at a time.

Inner products and cosines of the projections estimate those of the gradients, without bias and with
a standard error of about 1/√d (Johnson and Lindenstrauss, 1984). Neither the matrix (parameters ×
d) nor the gradients of all parameters are ever held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, float32, float64

from influence.errors import InfluenceError
from influence.projection.rademacher import add_rademacher
from influence.projection.sparse import add_sparse

ProjectionKind = Literal["sparse", "rademacher"]


@dataclass(frozen=True)
class Projection:
    """Everything that determines a projection matrix, besides the names and sizes of parameters.

    Raises:
        InfluenceError: a value cannot be used.
    """

    kind: ProjectionKind = "sparse"
    """"sparse" is as accurate as dense "rademacher" and some hundred times as fast."""
    dimension: int = 8192
    """Numbers for each example, d. 8192 is LESS's; the error falls with 1/√d."""
    seed: int = 0
    rows: int = 4
    """For "sparse": rows that each coordinate goes to, s. "rademacher" does not use it."""

    def __post_init__(self) -> None:
        kinds = get_args(ProjectionKind)
        if self.kind not in kinds:
            raise InfluenceError(f"There is no projection {self.kind!r}: use {' or '.join(kinds)}.")
        if self.dimension < 1 or self.rows < 1:
            raise InfluenceError(
                f"A projection to {self.dimension} numbers with {self.rows} rows for each "
                "coordinate is not possible: both must be at least 1."
            )
        if self.kind == "sparse" and self.dimension % self.rows:
            raise InfluenceError(
                f"A sparse projection to {self.dimension} numbers with {self.rows} rows for each "
                "coordinate is not possible: the dimension must be a multiple of the rows. Use "
                f"{-(-self.dimension // self.rows) * self.rows} numbers."
            )


class Projector:
    """Sums the projections of the parameters of one batch of examples.

    The result depends on the names and the gradients of the parameters. It does not depend on their
    order (but for rounding), on the batch that an example is in, on the device or on the process.

    >>> projector = Projector(Projection(dimension=8192))
    >>> for name, gradients in per_example_gradients:  # (examples, *shape of the parameter)
    ...     projector.add(name, gradients)
    >>> projected = projector.result()  # (examples, 8192)
    """

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._sums: Tensor | None = None
        self._names: set[str] = set()

    def add(self, name: str, gradients: Tensor) -> None:
        """Adds the gradients of one parameter.

        Args:
            name: the parameter's name, which chooses its part of the matrix.
            gradients: float32 or float64 (examples, *shape). The result has their dtype and device.

        Raises:
            InfluenceError: the name was added before, or the dtype, or the number of examples is
                not that of the parameters before.
        """
        if name in self._names:
            raise InfluenceError(
                f"The gradients of {name!r} were added twice. Add each parameter once; sum the "
                "gradients of a tied parameter before."
            )
        if gradients.dtype not in (float32, float64):
            raise InfluenceError(
                f"The gradients of {name!r} are {gradients.dtype}; the projection takes "
                "torch.float32 or torch.float64. Convert them first."
            )
        flat = gradients.detach().reshape(len(gradients), -1)
        projection = self._projection
        if self._sums is None:
            self._sums = flat.new_zeros(len(flat), projection.dimension)
        if (len(flat), flat.dtype) != (len(self._sums), self._sums.dtype):
            raise InfluenceError(
                f"The gradients of {name!r} are of {len(flat)} examples in {flat.dtype}; the "
                f"parameters before had {len(self._sums)} in {self._sums.dtype}. Use one Projector "
                "for each batch."
            )
        if projection.kind == "sparse":
            add_sparse(self._sums, flat, projection.seed, name, projection.rows)
        else:
            add_rademacher(self._sums, flat, projection.seed, name)
        self._names.add(name)

    def result(self) -> Tensor:
        """Returns the projected gradients (examples, d).

        Raises:
            InfluenceError: no gradients were added.
        """
        if self._sums is None:
            raise InfluenceError("No gradients were added, so there is nothing to project.")
        return self._sums
