"""What an adapter holds of a displacement, and what it misses: per tensor, per layer, in all."""

import math
from typing import Any, NamedTuple

from merging.tensor_names import place, reading_order


class TensorFit(NamedTuple):
    """One tensor of an adapter."""

    name: str
    """The base's name of it."""
    rank: int
    """0 where there was nothing to store."""
    norm: float
    """Frobenius norm of the displacement that was wanted."""
    error: float
    """Frobenius norm of what the stored factors, in their dtype, miss of it."""


class LeftOut(NamedTuple):
    """A kind of tensor that an adapter does not hold."""

    kind: str
    tensors: int
    norm: float
    """Frobenius norm of their displacement."""


class LayerFit(NamedTuple):
    """One layer of an adapter."""

    layer: str
    tensors: int
    ranks: tuple[int, int]
    """The least and the greatest rank of its tensors."""
    norm: float
    error: float
    """Relative to the norm; 0 where the norm is 0."""


class Fit(NamedTuple):
    """What an adapter holds of a displacement, and what it does not."""

    rows: tuple[TensorFit, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def rank(self) -> int:
        """The greatest rank."""
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
        """The share of the whole displacement's squared norm in tensors that the adapter does not hold, 0 to 1."""
        outside = math.hypot(*(part.norm for part in self.left_out))
        return _share(outside**2, outside**2 + math.hypot(*(row.norm for row in self.rows)) ** 2)

    def share(self, part: LeftOut) -> float:
        """The share of the whole displacement's squared norm in one kind of tensor, 0 to 1."""
        whole = math.hypot(
            *[*(one.norm for one in self.left_out), *(row.norm for row in self.rows)]
        )
        return _share(part.norm**2, whole**2)

    def by_layer(self) -> list[LayerFit]:
        """The rows by layer, in reading order; tensors outside the layers stand by their part."""
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
        """The same for a JSON file."""
        return {
            "rank": self.rank,
            "relative_error": self.error,
            "share_left_out": self.missing,
            "left_out": [{**part._asdict(), "share": self.share(part)} for part in self.left_out],
            "layers": [layer._asdict() for layer in self.by_layer()],
            "tensors": [row._asdict() for row in self.rows],
        }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
