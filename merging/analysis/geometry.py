"""Measures norms, cosines and distances of distribution vectors in one pass over the weights.

For each tensor the pass keeps the Gram matrix of the deltas, ⟨Δ_i, Δ_j⟩, and the base's squared
norm, in float64. These sums add up over any group of tensors, so every cosine and distance of a
layer, a part or the whole model follows from them. DEM (arXiv 2406.15570) shows cosines of whole
vectors (table 7) and distances per layer (figure 3), but does not say what is normalised or left
out. So both the raw norm and the norm relative to the base's are available, for any group.
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
from merging.engine.identities import gather
from merging.engine.loop import BLOCK
from merging.engine.pieces import Piece, fill_deltas, read_base, read_deltas
from merging.engine.shared_tensors import shared_tensors
from merging.engine.task_vectors import under_first_name
from merging.engine.workspace import PIECE, Workspace
from merging.inputs.checkpoint import Weights, dtype_of, read_into, shape_of
from merging.inputs.vector import Vector
from merging.tensor_names import PARTS, Place, place, reading_order
from merging.threads import Spare, in_order, workers

RUN = 2**10
"""Elements whose products are summed in float32; sums of runs are added in float64."""

Matrix = NDArray[np.float64]


class Table(NamedTuple):
    """Numbers with names for rows and columns, ready to be drawn."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Matrix
    """(rows, columns); NaN if a value is undefined."""
    unit: str
    """The label of the values, such as '‖Δ‖'."""


@dataclass(frozen=True)
class Geometry:
    """The Gram matrices of a set of vectors over one base."""

    vectors: tuple[str, ...]
    tensors: tuple[str, ...]
    """Names of the base's floating-point tensors, in reading order; one name for each tensor."""
    grams: Matrix
    """(tensors, vectors, vectors): ⟨Δ_i, Δ_j⟩."""
    base_squares: Matrix
    """(tensors,): ‖Θ‖²."""
    sizes: NDArray[np.int64]
    """(tensors,): number of elements."""

    @property
    def places(self) -> tuple[Place, ...]:
        """The stack, layer and part of each tensor, as its name says."""
        return tuple(place(name) for name in self.tensors)

    def groups(self, by: str) -> dict[str, list[int]]:
        """Returns label -> indices of its tensors, for by = 'layer', 'part', 'tensor' or 'model'.

        By layer, tensors outside the layers are labelled by their part: embeddings, norms or head.
        """
        # In the order of PARTS, so that the tables of two models list them alike.
        if by == "part":
            parts = {
                part: [i for i, position in enumerate(self.places) if position.part == part]
                for part in PARTS
            }
            return {part: rows for part, rows in parts.items() if rows}
        labels: dict[str, list[int]] = {}
        # Encoder and decoder both have a layer 0: then the label names the stack too.
        stacks = {position.stack for position in self.places if position.layer is not None}
        several = len(stacks) > 1
        for i, (name, position) in enumerate(zip(self.tensors, self.places, strict=True)):
            layer = (
                f"{position.stack}.{position.label}"
                if several and position.layer is not None
                else position.label
            )
            label = {"layer": layer, "tensor": name, "model": "model"}[by]
            labels.setdefault(label, []).append(i)
        return labels

    @property
    def layers(self) -> list[str]:
        """The labels of the layers, in reading order, with those of tensors outside them."""
        return list(self.groups("layer"))

    def gram(self, *, layer: str | None = None, part: str | None = None) -> Matrix:
        """Returns ⟨Δ_i, Δ_j⟩, (vectors, vectors), over the whole model or a layer, part or both.

        Raises:
            KeyError: for a layer or part that the model does not have.
        """
        rows = set(range(len(self.tensors)))
        if layer is not None:
            rows &= set(self.groups("layer")[layer])
        if part is not None:
            rows &= set(self.groups("part")[part])
        # Sorted, so that the sum of a group has the same bits whichever sets it was cut from.
        total: Matrix = self.grams[sorted(rows)].sum(0)
        return total

    def cosine(self, layer: str | None = None, part: str | None = None) -> Matrix:
        """Returns the cosines between the vectors, (vectors, vectors), −1 to 1; see `gram`.

        The cosine with a vector that is zero there is undefined: NaN, not 0, which would mean
        orthogonal.
        """
        gram = self.gram(layer=layer, part=part)
        norms = np.sqrt(np.diag(gram))
        scale = np.outer(norms, norms)
        out: Matrix = np.full_like(gram, np.nan)
        np.divide(gram, scale, out=out, where=scale > 0)
        return out

    def distance(self, *, relative: bool = False, by: str = "layer") -> Table:
        """Returns a table of ‖Δ_i‖, the Euclidean distances of the checkpoints from the base.

        Args:
            relative: divide by ‖Θ‖ of the same tensors; NaN if that is 0.
            by: the rows: 'layer', 'part', 'tensor' or 'model'.
        """
        groups = self.groups(by)
        squares = np.array([np.diagonal(self.grams[rows].sum(0)) for rows in groups.values()])
        values: Matrix = np.sqrt(squares)
        if relative:
            base_squares = [self.base_squares[rows].sum() for rows in groups.values()]
            base = np.sqrt(np.array(base_squares))[:, None]
            values = np.divide(values, base, out=np.full_like(values, np.nan), where=base > 0)
        return Table(tuple(groups), self.vectors, values, "‖Δ‖ / ‖Θ‖" if relative else "‖Δ‖")


def measure(
    base: Weights,
    vectors: Mapping[str, Vector],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Geometry:
    """Measures the geometry of vectors: reads each floating-point tensor once, in pieces.

    A tensor that the base stores under several names counts once, under the first. The digests of
    base and vectors are gathered on the way; see Checkpoint.gather_digest.

    Args:
        base: Θ.
        vectors: the vectors by name.
        progress: called with the elements done and their total; it may raise to cancel.

    Returns:
        the Gram matrices of all floating-point tensors.
    """
    gather([base, *vectors.values()])
    ordered = list(vectors.values())
    shared = shared_tensors(base, ordered)
    tensors = reading_order(
        [
            name
            for name in base
            if dtype_of(base, name).is_floating_point and name == shared.get(name, (name,))[0]
        ]
    )
    sizes = np.array([math.prod(shape_of(base, name)) for name in tensors], dtype=np.int64)
    seen = {
        name: [under_first_name(vector, shared.get(name, ())) for vector in ordered]
        for name in tensors
    }
    compiled = [
        kernel.reads(dtype_of(base, name)) and len(ordered) <= kernel.MOST for name in tensors
    ]
    # The compiled loop cuts stored weights into slices; other vectors are computed into memory.
    as_stored = all(vector.AS_STORED for vector in ordered)
    pieces = [
        (row, start, min(start + step, size))
        for row, size in enumerate(sizes.tolist())
        for step in [PIECE if compiled[row] and as_stored else BLOCK]
        for start in range(0, size, step)
    ]
    workspaces = Spare(Workspace)

    def products(piece: tuple[int, int, int]) -> tuple[tuple[int, int, int], Matrix, float]:
        """Returns the piece with its Gram matrix and the base's squared norm."""
        row, start, stop = piece
        name = tensors[row]
        with workspaces.borrowed() as workspace:
            if compiled[row]:
                with ExitStack() as files:
                    span, reader = Piece(name, start, stop), workspace.reader(files)
                    theta = read_base(span, base, len(ordered), reader)
                    spans = read_deltas(span, base, seen[name], reader)
                    scratch = workspace.slices(len(ordered))
                    return piece, *kernel.inner_products(theta, spans, scratch)
            working = working_dtype(dtype_of(base, name))
            stack = workspace.rows(1 + len(ordered), stop - start, working)
            read_into(base, name, start, stack[0], workspace.scratch)
            fill_deltas(name, start, stack, base, seen[name], workspace.scratch)
            return piece, gram_of(stack[1:]).numpy(), square_of(stack[0])

    grams = np.zeros((len(tensors), len(vectors), len(vectors)))
    squares = np.zeros(len(tensors))
    done, total = 0, int(sizes.sum())
    # The order of these additions is fixed, so the sums do not depend on the number of threads.
    # Room counts pieces here: results are a few numbers, so it only has to keep every thread busy.
    for (row, start, stop), gram, square in in_order(pieces, products, room=4 * workers()):
        grams[row] += gram
        squares[row] += square
        done += stop - start
        progress(done, total)
    return Geometry(tuple(vectors), tuple(tensors), grams, squares, sizes)


def gram_of(rows: Float[Tensor, "rows n"]) -> Float[Tensor, "rows rows"]:
    """Returns ⟨xᵢ, xⱼ⟩ in float64: each run of RUN elements is summed in the dtype of the rows.

    For float32 rows the error was below 2e-8 of ‖xᵢ‖‖xⱼ‖ (random rows of 2¹⁸ elements), in a
    quarter of the time of float64 throughout.
    """
    # float64 rows gain nothing from runs, which only save time for float32.
    whole = 0 if rows.dtype == torch.float64 else rows.shape[1] // RUN * RUN
    # The end of the rows, which fills no run, is summed in float64.
    rest = rows[:, whole:].double()
    total = rest @ rest.T
    if whole:
        runs = rows[:, :whole].view(len(rows), -1, RUN).transpose(0, 1)
        total += (runs @ runs.mT).sum(0, dtype=torch.float64)
    return total


def square_of(values: Float[Tensor, "n"]) -> float:
    """Returns ‖x‖² in float64, summed in the same runs as in `gram_of`."""
    whole = 0 if values.dtype == torch.float64 else len(values) // RUN * RUN
    norms = torch.linalg.vector_norm(values[:whole].view(-1, RUN), dim=1)
    return float(norms.double().square().sum() + values[whole:].double().square().sum())
