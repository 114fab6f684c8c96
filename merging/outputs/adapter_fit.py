"""The errors of an adapter, per tensor, per layer and in total, and what it leaves out."""

import math
from typing import Any, NamedTuple

from merging.tensor_names import place, reading_order


class TensorFit(NamedTuple):
    """The rank and error of one tensor of an adapter."""

    name: str
    """The tensor's name in the base."""
    rank: int
    """0 if there was nothing to store."""
    norm: float
    """Frobenius norm of the wanted displacement."""
    error: float
    """Frobenius norm of the wanted displacement less the product of the factors as stored."""


class LeftOut(NamedTuple):
    """One kind of tensors that an adapter does not hold."""

    kind: str
    """Such as 'norms' or 'biases'."""
    tensors: int
    norm: float
    """Frobenius norm of the displacement of all these tensors."""
    why: str = ""
    """Why an adapter cannot hold them; empty if the kind says it."""

    @property
    def label(self) -> str:
        """Kind, number and reason, for reports."""
        return f"{self.kind} (tensors: {self.tensors}){f': {self.why}' if self.why else ''}"


class LayerFit(NamedTuple):
    """The ranks and the error of one layer of an adapter."""

    layer: str
    tensors: int
    ranks: tuple[int, int]
    """The smallest and the largest rank of its tensors."""
    norm: float
    """Frobenius norm of the wanted displacement."""
    error: float
    """Frobenius norm of the error, relative to `norm`; 0 if `norm` is 0."""


class Fit(NamedTuple):
    """The errors of all tensors of an adapter, and the tensors that it leaves out."""

    rows: tuple[TensorFit, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def rank(self) -> int:
        """The largest rank of any tensor."""
        return max(row.rank for row in self.rows)

    @property
    def error(self) -> float:
        """Relative Frobenius error over all tensors of the adapter."""
        return _share(
            math.hypot(*(row.error for row in self.rows)),
            math.hypot(*(row.norm for row in self.rows)),
        )

    @property
    def missing(self) -> float:
        """The share of the displacement's squared norm in tensors that are left out, 0 to 1."""
        # Tensors are parts of one long vector, so their norms add as squares.
        outside = math.hypot(*(part.norm for part in self.left_out))
        return _share(outside**2, outside**2 + math.hypot(*(row.norm for row in self.rows)) ** 2)

    def share(self, part: LeftOut) -> float:
        """Returns the share of the displacement's squared norm in one kind of tensors, 0 to 1."""
        norms = [*(kind.norm for kind in self.left_out), *(row.norm for row in self.rows)]
        whole = math.hypot(*norms)
        return _share(part.norm**2, whole**2)

    def by_layer(self) -> list[LayerFit]:
        """Returns the rows grouped by layer, in reading order.

        Tensors outside the layers are grouped by their part.
        """
        groups: dict[str, list[TensorFit]] = {}
        rows = {row.name: row for row in self.rows}
        for name in reading_order(list(rows)):
            groups.setdefault(place(name).label, []).append(rows[name])
        return [
            LayerFit(
                label,
                len(group),
                (min(row.rank for row in group), max(row.rank for row in group)),
                norm := math.hypot(*(row.norm for row in group)),
                _share(math.hypot(*(row.error for row in group)), norm),
            )
            for label, group in groups.items()
        ]

    def as_data(self) -> dict[str, Any]:
        """Returns all numbers as a dictionary for a JSON file."""
        return {
            "rank": self.rank,
            "relative_error": self.error,
            "share_left_out": self.missing,
            "left_out": [{**part._asdict(), "share": self.share(part)} for part in self.left_out],
            "layers": [layer._asdict() for layer in self.by_layer()],
            "tensors": [row._asdict() for row in self.rows],
        }


def _share(part: float, whole: float) -> float:
    """Returns part / whole; 0 if both are 0."""
    # A displacement of 0 is stored exactly: its error is 0, not NaN.
    return part / whole if whole else 0.0
