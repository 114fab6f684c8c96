"""Measures how much of a merge's displacement is lost by rounding to the output dtype.

A merge moves weights only a little, and bfloat16 has eight significant bits. If base weights
(σ = 0.02) and a delta (σ = 3e-4) are Gaussian, the displacement that a bfloat16 file stores is off
by 11.1 % of ‖Δ‖. It is off by 14.1 % at σ = 2.3e-4 and by 33 % at 1e-4. At 3e-5 it is off by 71 %
with a bfloat16 base and by 110 % with a float32 base. The steps of bfloat16 are 2^(e−7) for |w| in
[2^e, 2^(e+1)), and the error of rounding is 1/√12 of a step. A checkpoint that was trained in
bfloat16 loses nothing if it is merged alone at ω = 1.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merging.analysis.geometry import Geometry, Matrix, Table
from merging.engine.loop import BLOCK, unrounded_blocks
from merging.engine.stochastic_rounding import round_piece
from merging.engine.task import Task
from merging.engine.tasks import tasks
from merging.inputs.checkpoint import Weights, dtype_of
from merging.inputs.vector import Vector
from merging.recipe import Recipe
from merging.tensor_names import reading_order

COLUMNS = ("lost", "kept", "cosine", "without trace")
SMALL = 0.2
"""The largest share lost that needs no advice.

Measured on the demo with a bfloat16 base and the displacement of its best ω, made 1, 3, 10, 33 and
100 times smaller. With 1, 4, 13, 38 and 72 % lost, and 100, 100, 100, 97 and 66 % kept, a bfloat16
file had 100, 100, 100, 97 and 63 % of the float32 merge's gain in loss. Stochastic rounding kept
100 % each time, lost 1.4 to 1.9 times as much, and had 100, 100, 101, 100 and 97 % of the gain.
"""
KEPT = 0.9
"""From this share kept on, the loss is noise; below, rounding pulls the model to its base."""


@dataclass(frozen=True)
class RoundingCost:
    """What rounding to the output dtype loses of one merge; see `rounding_cost`.

    Attributes:
        geometry: three displacements in place of vectors: 'wanted', the merge before rounding − Θ;
            'stored', the file's values − Θ; and 'lost', stored − wanted. ‖Θ‖ is not measured:
            base_squares are NaN.
        moved: (tensors,), elements that the merge moves.
        unmoved: (tensors,), moved elements that are stored like the base's: the file shows no trace
            of their move.
        overflown: (tensors,), elements whose stored value is not finite although the base's is. An
            export is refused if there are any.
        dtypes: the output dtypes of the merged tensors, such as ('bfloat16',).
    """

    geometry: Geometry
    moved: NDArray[np.int64]
    unmoved: NDArray[np.int64]
    overflown: NDArray[np.int64]
    dtypes: tuple[str, ...]

    def table(self, by: str = "layer") -> Table:
        """Returns four columns of shares, by 'layer', 'part', 'tensor' or 'model'.

        With d = wanted − Θ and s = stored − Θ: 'lost' is ‖s − d‖ / ‖d‖. 'kept' is ⟨s, d⟩ / ‖d‖²,
        how far the file goes in the wanted direction. 'cosine' is the cosine of s and d. 'without
        trace' is the share of moved elements that are stored like the base's. All are NaN if
        nothing moves; the cosine is also NaN if s is 0.
        """
        groups = self.geometry.groups(by)
        values = np.array([self._row(rows) for rows in groups.values()]).reshape(
            len(groups), len(COLUMNS)
        )
        return Table(tuple(groups), COLUMNS, values, "share")

    @property
    def total(self) -> dict[str, float]:
        """The values of the table's columns for the whole model, by column."""
        return dict(zip(COLUMNS, self._row(list(range(len(self.geometry.tensors)))), strict=True))

    def worst(self, most: int = 3, by: str = "layer") -> list[tuple[str, float]]:
        """Returns the rows that lose the largest shares, with the share, largest first.

        Args:
            most: the largest number of rows. Rows that lose nothing are left out.
            by: the rows, as for `table`.
        """
        table = self.table(by)
        rows = [
            (row, share)
            for row, share in zip(table.rows, table.values[:, 0].tolist(), strict=True)
            # NaN, the share of rows that nothing moves, is not above 0 and falls out too.
            if share > 0
        ]
        return sorted(rows, key=lambda row: -row[1])[:most]

    def advice(self) -> str:
        """Returns advice for users that follows from the numbers."""
        name = " and ".join(self.dtypes)
        # The next wider dtype that holds what this one loses.
        wider = "float64" if "float32" in self.dtypes else "float32"
        # First, because an export with such values is refused: no other advice helps.
        if overflown := int(self.overflown.sum()):
            choice = "bfloat16 or float32" if "float16" in self.dtypes else wider
            return (
                f"{overflown:,} values do not fit {name}, and an export is refused. "
                f"Choose {choice}, or smaller ω."
            )
        total = self.total
        if math.isnan(total["lost"]):
            return "The merge moves no weight, so rounding takes nothing from it."
        finding = f"{name} loses {total['lost']:.1%} of the displacement"
        rows = [f"{_in_words(row)} ({share:.0%})" for row, share in self.worst() if share >= SMALL]
        if not rows and total["lost"] < SMALL:
            return f"{finding}; nothing needs doing."
        tensors = ", ".join(rows) or "tensors that only change their dtype"
        finding = f"{finding}, {'more' if total['lost'] < SMALL else 'most'} in {tensors}"
        if total["kept"] >= KEPT:
            return (
                f"{finding}. It is noise: in the mean the merge is stored. {wider} keeps all of it."
            )
        return (
            f"{finding}, and the file goes {total['kept']:.0%} of the wanted way from the base. "
            f"{wider} keeps all of it; stochastic rounding (dem: {{rounding: stochastic}}) keeps "
            "it in the mean, with more noise."
        )

    def _row(self, rows: list[int]) -> tuple[float, ...]:
        """Returns the values of COLUMNS over a group of tensors."""
        gram: Matrix = self.geometry.grams[rows].sum(0)
        wanted, stored, lost = np.sqrt(np.diag(gram)).tolist()
        moved = int(self.moved[rows].sum())
        return (
            lost / wanted if wanted else math.nan,
            float(gram[0, 1] / gram[0, 0]) if wanted else math.nan,
            float(gram[0, 1]) / (wanted * stored) if wanted * stored else math.nan,
            int(self.unmoved[rows].sum()) / moved if moved else math.nan,
        )


def rounding_cost(
    recipe: Recipe,
    base: Weights,
    vectors: Mapping[str, Vector],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RoundingCost:
    """Computes a merge once, block by block, and compares it with what its file would hold.

    Args:
        recipe: the merge; its out_dtype decides what is measured. Nothing is written.
        base: Θ.
        vectors: the vectors that the recipe names.
        progress: called with the elements done and their total; it may raise to cancel.

    Raises:
        RecipeError, MismatchError: if the recipe cannot be carried out on these weights.
    """
    todo = {
        task.name: task
        for task in tasks(recipe, base, vectors)
        if task.out_dtype.is_floating_point and not task.repeats
    }
    names = reading_order(list(todo))
    grams = np.zeros((len(names), 3, 3))
    counts = np.zeros((len(names), 3), dtype=np.int64)
    done, total = 0, sum(task.numel for task in todo.values())
    for row, task in enumerate(todo[name] for name in names):
        if not task.vectors and task.out_dtype == dtype_of(base, task.name):
            done += task.numel  # copied unchanged, so all its sums are 0
            progress(done, total)
            continue
        for theta, wanted, stored in _pieces(task, base, vectors):
            gram, count = _sums(theta, wanted, stored, task.out_dtype)
            grams[row] += gram
            counts[row] += count
            done += theta.numel()
            progress(done, total)
    # Tensors that are only copied count for the dtypes only if nothing else is merged.
    written = [task for task in todo.values() if task.vectors] or list(todo.values())
    dtypes = sorted({str(task.out_dtype).removeprefix("torch.") for task in written})
    sizes = np.array([todo[name].numel for name in names], dtype=np.int64)
    geometry = Geometry(
        ("wanted", "stored", "lost"), tuple(names), grams, np.full(len(names), np.nan), sizes
    )
    return RoundingCost(geometry, counts[:, 0], counts[:, 1], counts[:, 2], tuple(dtypes))


def _pieces(
    task: Task, base: Weights, vectors: Mapping[str, Vector]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields the base's, wanted and stored values, at most BLOCK of each.

    Whole tensors, which some methods need, are split too: the sums take float64 copies.
    """
    for start, theta, wanted in unrounded_blocks(task, base, vectors):
        stored = round_piece(task, start, wanted)
        yield from zip(
            *(torch.split(values, BLOCK) for values in (theta, wanted, stored)), strict=True
        )


def _sums(
    theta: Tensor, wanted: Tensor, stored: Tensor, dtype: torch.dtype
) -> tuple[Matrix, list[int]]:
    """Returns the Gram matrix of the three displacements, (3, 3), and three counts of elements.

    The counts are moved, unmoved and overflown. Elements that are not finite add nothing to the
    Gram matrix.
    """
    # Compared with the base rounded in the same way: what rounding alone does to a float32 base is
    # no trace of the merge.
    unchanged = theta.to(dtype).double()
    origin, exact, kept = theta.double(), wanted.double(), stored.double()
    finite = torch.isfinite(origin) & torch.isfinite(exact) & torch.isfinite(kept)
    moved = finite & (exact != origin)
    counts = [moved, moved & (kept == unchanged), torch.isfinite(origin) & ~torch.isfinite(kept)]
    # Multiplying by `finite` leaves NaN where an element is not finite, because NaN · 0 is NaN.
    stack = (
        torch.stack([exact - origin, kept - origin, kept - exact])
        .mul_(finite)
        .nan_to_num_(0.0, 0.0, 0.0)
    )
    return (stack @ stack.T).numpy(), [int(count.sum()) for count in counts]


def _in_words(row: str) -> str:
    """Returns the label of a row for a sentence: 'layer 3' for '3'."""
    return f"layer {row}" if row.isdecimal() else row
