"""What rounding costs: how much of a merge's displacement the output dtype does not hold.

A merge moves weights by little, and bfloat16 has eight significant bits. Where base weights (σ = 0.02) and one delta
(σ = 3e-4) are Gaussian, what a bfloat16 file stores is 11.1 % of ‖Δ‖ off; at σ = 2.3e-4 14.1 %, at 1e-4 33 %, at 3e-5
71 % with a bfloat16 base and 110 % with a float32 one. The steps of bfloat16 are 2^(e−7) for |w| in [2^e, 2^(e+1)), and
the error of rounding is 1/√12 of a step. A checkpoint trained in bfloat16, alone at ω = 1, loses nothing.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merging.analysis.geometry import Geometry, Matrix, Table
from merging.engine.loop import BLOCK, rounded, unrounded_blocks
from merging.engine.tasks import Task, tasks
from merging.inputs.checkpoint import Weights, dtype_of
from merging.inputs.vector import Vector
from merging.recipe import Recipe
from merging.tensor_names import reading_order

COLUMNS = ("lost", "kept", "cosine", "without trace")
SMALL = 0.2
"""A share lost that needs no advice. Measured on the demo, its base in bfloat16 and the displacement of its best ω made
1, 3, 10, 33 and 100 times smaller: with 1, 4, 13, 38 and 72 % lost, and 100, 100, 100, 97 and 66 % kept, a bfloat16
file had 100, 100, 100, 97 and 63 % of the float32 merge's gain in loss. Stochastic rounding kept 100 % each time, lost
1.4 to 1.9 times as much, and had 100, 100, 101, 100 and 97 % of the gain."""
KEPT = 0.9
"""A share kept above this means that what is lost is noise; below, rounding pulls the model back to its base."""


@dataclass(frozen=True)
class RoundingCost:
    """What the output dtype takes from one merge; see `rounding_cost`."""

    geometry: Geometry
    """Of three displacements: 'wanted', the merge before it is rounded − Θ; 'stored', what the file holds − Θ; and
    'lost', the second − the first. ‖Θ‖ is not measured with them: base_squares are NaN."""
    moved: NDArray[np.int64]
    """(tensors,): elements that the merge moves."""
    unmoved: NDArray[np.int64]
    """(tensors,): those of them that are stored as the base's would be: nothing in the file tells that they moved."""
    overflown: NDArray[np.int64]
    """(tensors,): elements whose stored value is not finite where the base's is. An export is refused then."""
    dtypes: tuple[str, ...]
    """The dtypes of the tensors that were merged, such as ('bfloat16',)."""

    def table(self, by: str = "layer") -> Table:
        """Four columns by 'layer', 'part', 'tensor' or for the whole 'model'.

        With d = wanted − Θ and s = stored − Θ, 'lost' is ‖s − d‖ / ‖d‖, 'kept' is ⟨s, d⟩ / ‖d‖², how far the file goes
        in the wanted direction, and 'cosine' that of s and d; 'without trace' is the share of moved elements that
        are stored as the base's would be. NaN where nothing moves, and for the cosine where s is 0.
        """
        groups = self.geometry.groups(by)
        values = np.array([self._row(rows) for rows in groups.values()]).reshape(
            len(groups), len(COLUMNS)
        )
        return Table(tuple(groups), COLUMNS, values, "share")

    @property
    def total(self) -> dict[str, float]:
        """The columns of the table for the whole model."""
        return dict(zip(COLUMNS, self._row(list(range(len(self.geometry.tensors)))), strict=True))

    def worst(self, most: int = 3, by: str = "layer") -> list[tuple[str, float]]:
        """The rows that lose the greatest share, and the share; rows where nothing moves are not among them."""
        found = self.table(by)
        rows = [
            (row, share)
            for row, share in zip(found.rows, found.values[:, 0].tolist(), strict=True)
            if share > 0
        ]
        return sorted(rows, key=lambda row: -row[1])[:most]

    def advice(self) -> str:
        """What follows from the numbers, in words; one sentence where nothing needs doing."""
        name = " and ".join(self.dtypes)
        wider = "float64" if "float32" in self.dtypes else "float32"
        if overflown := int(self.overflown.sum()):
            choice = "bfloat16 or float32" if "float16" in self.dtypes else wider
            return f"{overflown:,} values do not fit {name}, and an export is refused. Choose {choice}, or smaller ω."
        total = self.total
        if math.isnan(total["lost"]):
            return "The merge moves no weight, so rounding takes nothing from it."
        found = f"{name} loses {total['lost']:.1%} of the displacement"
        rows = [f"{_in_words(row)} ({share:.0%})" for row, share in self.worst() if share >= SMALL]
        if not rows and total["lost"] < SMALL:
            return f"{found}; nothing needs doing."
        where = ", ".join(rows) or "tensors that only change their dtype"
        found = f"{found}, {'more' if total['lost'] < SMALL else 'most'} in {where}"
        if total["kept"] >= KEPT:
            return (
                f"{found}. It is noise: in the mean the merge is stored. {wider} keeps all of it."
            )
        return (
            f"{found}, and the file goes {total['kept']:.0%} of the wanted way from the base. {wider} keeps all of it; "
            "stochastic rounding (dem: {rounding: stochastic}) keeps it in the mean, with more noise."
        )

    def _row(self, rows: list[int]) -> tuple[float, ...]:
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
    """Carry a merge out without writing it, once in its blocks, and compare it with what the file would hold.

    Args:
        recipe: its out_dtype decides what is measured.
        base: Θ.
        vectors: the vectors that the recipe names.
        progress: called with elements done and in all; may raise to cancel.

    Raises:
        RecipeError, MismatchError: when the recipe cannot be carried out on these weights.
    """
    todo = {
        task.name: task for task in tasks(recipe, base, vectors) if task.out_dtype.is_floating_point
    }
    names = reading_order(list(todo))
    grams = np.zeros((len(names), 3, 3))
    counts = np.zeros((len(names), 3), dtype=np.int64)
    done, total = 0, sum(task.numel for task in todo.values())
    for row, task in enumerate(todo[name] for name in names):
        if not task.vectors and task.out_dtype == dtype_of(base, task.name):
            done += task.numel  # copied as it is: all its sums are 0
            progress(done, total)
            continue
        for theta, wanted, stored in _pieces(task, base, vectors):
            gram, count = _sums(theta, wanted, stored, task.out_dtype)
            grams[row] += gram
            counts[row] += count
            done += theta.numel()
            progress(done, total)
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
    """Base, wanted and stored values, at most BLOCK of each: methods that need whole tensors are cut up too."""
    for start, theta, wanted in unrounded_blocks(task, base, vectors):
        stored = rounded(task, start, wanted)
        yield from zip(
            *(torch.split(values, BLOCK) for values in (theta, wanted, stored)), strict=True
        )


def _sums(
    theta: Tensor, wanted: Tensor, stored: Tensor, dtype: torch.dtype
) -> tuple[Matrix, list[int]]:
    """The Gram matrix of the three displacements and the three counts; elements that are not finite count apart."""
    alone = theta.to(dtype).double()
    origin, exact, kept = theta.double(), wanted.double(), stored.double()
    finite = torch.isfinite(origin) & torch.isfinite(exact) & torch.isfinite(kept)
    moved = finite & (exact != origin)
    counts = [moved, moved & (kept == alone), torch.isfinite(origin) & ~torch.isfinite(kept)]
    stack = (
        torch.stack([exact - origin, kept - origin, kept - exact])
        .mul_(finite)
        .nan_to_num_(0.0, 0.0, 0.0)
    )
    return (stack @ stack.T).numpy(), [int(count.sum()) for count in counts]


def _in_words(row: str) -> str:
    return f"layer {row}" if row.isdecimal() else row
