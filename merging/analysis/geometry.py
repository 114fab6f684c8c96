"""How distribution vectors relate: norms, cosines and distances, all from one pass over the weights.

For each tensor the pass keeps the Gram matrix of the deltas, ⟨Δ_i, Δ_j⟩, and the base's squared norm, in float64. These
add up over any group of tensors, so every cosine and distance of a layer, a part or the whole model follows from them.
DEM (arXiv 2406.15570) shows cosines of whole vectors (table 7) and distances per layer (figure 3) without saying what
is normalised or left out, so both the raw norm and the norm relative to the base's are given, for any group.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from merging.dtypes import working_dtype
from merging.engine import kernel
from merging.engine.loop import BLOCK, PIECE, Workspace, read_deltas
from merging.engine.pieces import Piece
from merging.engine.pieces import read_deltas as read_spans
from merging.engine.threads import Spare, in_order, workers
from merging.inputs.checkpoint import Weights, dtype_of, read_into, shape_of
from merging.inputs.vector import Vector
from merging.tensor_names import PARTS, Place, place, reading_order

RUN = 2**10
"""Elements whose products are summed in float32."""

Matrix = NDArray[np.float64]


class Table(NamedTuple):
    """Numbers with names, drawable by anyone."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Matrix
    """(rows, columns); NaN where a value is undefined."""
    unit: str


@dataclass(frozen=True)
class Geometry:
    """The Gram matrices of a set of vectors over one base."""

    vectors: tuple[str, ...]
    tensors: tuple[str, ...]
    """Names of the base's floating-point tensors, in reading order."""
    grams: Matrix
    """(tensors, vectors, vectors): ⟨Δ_i, Δ_j⟩."""
    base_squares: Matrix
    """(tensors,): ‖Θ‖²."""
    sizes: NDArray[np.int64]
    """(tensors,): number of elements."""

    @property
    def places(self) -> tuple[Place, ...]:
        """Where each tensor stands."""
        return tuple(place(name) for name in self.tensors)

    def groups(self, by: str) -> dict[str, list[int]]:
        """Label -> positions of its tensors, for by = 'layer', 'part', 'tensor' or 'model'.

        Tensors outside the layers are rows of their own, named by their part (embeddings, norms, head).
        """
        if by == "part":
            found = {
                part: [i for i, where in enumerate(self.places) if where.part == part]
                for part in PARTS
            }
            return {part: rows for part, rows in found.items() if rows}
        labels: dict[str, list[int]] = {}
        several = len({where.stack for where in self.places if where.layer is not None}) > 1
        for i, (name, where) in enumerate(zip(self.tensors, self.places, strict=True)):
            layered = (
                f"{where.stack}.{where.label}"
                if several and where.layer is not None
                else where.label
            )
            labels.setdefault({"layer": layered, "tensor": name, "model": "model"}[by], []).append(
                i
            )
        return labels

    @property
    def layers(self) -> list[str]:
        """The rows of a table by layer."""
        return list(self.groups("layer"))

    def gram(self, *, layer: str | None = None, part: str | None = None) -> Matrix:
        """⟨Δ_i, Δ_j⟩ over the whole model, one layer, one part, or one part of one layer: (vectors, vectors)."""
        rows = set(range(len(self.tensors)))
        if layer is not None:
            rows &= set(self.groups("layer")[layer])
        if part is not None:
            rows &= set(self.groups("part")[part])
        total: Matrix = self.grams[sorted(rows)].sum(0)
        return total

    def cosine(self, layer: str | None = None, part: str | None = None) -> Matrix:
        """Cosines between the vectors: (vectors, vectors), NaN where one of the two is zero there.

        The cosine of a zero vector is undefined. It is not 0, which would read as orthogonal.
        """
        gram = self.gram(layer=layer, part=part)
        norms = np.sqrt(np.diag(gram))
        scale = np.outer(norms, norms)
        out: Matrix = np.full_like(gram, np.nan)
        np.divide(gram, scale, out=out, where=scale > 0)
        return out

    def distance(self, *, relative: bool = False, by: str = "layer") -> Table:
        """‖Δ_i‖, the Euclidean distance from the base, by 'layer', 'part', 'tensor' or for the whole 'model'.

        Args:
            relative: divide by ‖Θ‖ of the same tensors; NaN where that is 0.
            by: the rows.
        """
        groups = self.groups(by)
        squares = np.array([np.diagonal(self.grams[rows].sum(0)) for rows in groups.values()])
        values: Matrix = np.sqrt(squares)
        if relative:
            base = np.sqrt(np.array([self.base_squares[rows].sum() for rows in groups.values()]))[
                :, None
            ]
            values = np.divide(values, base, out=np.full_like(values, np.nan), where=base > 0)
        return Table(tuple(groups), self.vectors, values, "‖Δ‖ / ‖Θ‖" if relative else "‖Δ‖")


def measure(
    base: Weights,
    vectors: Mapping[str, Vector],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Geometry:
    """Read every floating-point tensor of base and vectors once, in blocks.

    Args:
        base: Θ.
        vectors: the vectors by name.
        progress: called with elements done and in all.
    """
    tensors = reading_order([name for name in base if dtype_of(base, name).is_floating_point])
    sizes = np.array([math.prod(shape_of(base, name)) for name in tensors], dtype=np.int64)
    given = list(vectors.values())
    compiled = [
        kernel.reads(dtype_of(base, name)) and len(given) <= kernel.MOST for name in tensors
    ]
    as_stored = all(vector.AS_STORED for vector in given)  # else blocks of them are held in memory
    pieces = [
        (row, start, min(start + step, size))
        for row, size in enumerate(sizes.tolist())
        for step in [PIECE if compiled[row] and as_stored else BLOCK]
        for start in range(0, size, step)
    ]
    workspaces = Spare(Workspace)

    def products(piece: tuple[int, int, int]) -> tuple[tuple[int, int, int], Matrix, float]:
        row, start, stop = piece
        name = tensors[row]
        with workspaces.borrowed() as workspace:
            if compiled[row]:
                with ExitStack() as files:
                    theta, spans = read_spans(
                        Piece(name, start, stop), base, given, workspace.reader(files)
                    )
                    return piece, *kernel.inner_products(theta, spans, workspace.slices(len(given)))
            stack = workspace.rows(
                1 + len(given), stop - start, working_dtype(dtype_of(base, name))
            )
            read_into(base, name, start, stack[0], workspace.scratch)
            read_deltas(name, start, stack, base, given, workspace.scratch)
            return piece, gram_of(stack[1:]).numpy(), square_of(stack[0])

    grams = np.zeros((len(tensors), len(vectors), len(vectors)))
    squares = np.zeros(len(tensors))
    done, total = 0, int(sizes.sum())
    for (row, start, stop), gram, square in in_order(pieces, products, room=4 * workers()):
        grams[row] += gram
        squares[row] += square
        done += stop - start
        progress(done, total)
    return Geometry(tuple(vectors), tuple(tensors), grams, squares, sizes)


def gram_of(rows: Float[Tensor, "rows n"]) -> Float[Tensor, "rows rows"]:
    """⟨xᵢ, xⱼ⟩ in float64, of float32 rows in runs of RUN elements, each product of two runs summed in float32.

    That is within 2e-8 of ‖xᵢ‖‖xⱼ‖ (measured on random rows of 2¹⁸), at a quarter of the time of float64 throughout.
    """
    whole = 0 if rows.dtype == torch.float64 else rows.shape[1] // RUN * RUN
    rest = rows[:, whole:].double()
    total = rest @ rest.T
    if whole:
        runs = rows[:, :whole].view(len(rows), -1, RUN).transpose(0, 1)
        total += (runs @ runs.mT).sum(0, dtype=torch.float64)
    return total


def square_of(values: Float[Tensor, "n"]) -> float:
    """‖x‖², in the same runs."""
    whole = 0 if values.dtype == torch.float64 else len(values) // RUN * RUN
    norms = torch.linalg.vector_norm(values[:whole].view(-1, RUN), dim=1)
    return float(norms.double().square().sum() + values[whole:].double().square().sum())
