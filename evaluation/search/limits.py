"""Limits on the ω themselves, which are known before anything is measured: Σω and ‖ΔΘ‖."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Function = Callable[[Floats], tuple[float, Floats]]
"""Values -> a number and its derivatives."""


class Limit(ABC):
    """A number that is computed from some coordinates, and the highest value that it may have.

    The allowed points are a convex set: between two of them all are allowed.

    Attributes:
        names: the coordinates.
        highest: the highest value.
    """

    names: tuple[str, ...]
    highest: float

    @abstractmethod
    def value(self, values: Floats) -> float:
        """Returns the number for (names,) float64 values."""

    @abstractmethod
    def slope(self, values: Floats) -> Floats:
        """Returns its (names,) derivatives."""

    @abstractmethod
    def words(self) -> str:
        """Returns what it demands, for the user."""

    def allows(self, point: Mapping[str, float]) -> bool:
        """Returns whether a point keeps the limit."""
        # A sum of decimals such as 0.1 + 0.2 is a little above its limit by rounding only.
        return self.value(np.array([point[name] for name in self.names])) <= self.highest + 1e-9


@dataclass(frozen=True)
class SumLimit(Limit):
    """Σω is at most a number.

    Attributes:
        names, highest: see Limit.
    """

    names: tuple[str, ...]
    highest: float

    def value(self, values: Floats) -> float:
        """Returns the sum."""
        return float(values.sum())

    def slope(self, values: Floats) -> Floats:
        """Returns a 1 for each coordinate."""
        return np.ones_like(values)

    def words(self) -> str:
        """Returns what it demands, for the user."""
        return f"Σω at most {self.highest:g}"


@dataclass(frozen=True, eq=False)
class NormLimit(Limit):
    """‖Σ ωᵢ Δᵢ‖ is at most a number.

    Attributes:
        names, highest: see Limit.
        gram: (names, names) float64: the inner products ⟨Δᵢ, Δⱼ⟩, in the unit of `highest` squared.
    """

    names: tuple[str, ...]
    highest: float
    gram: Floats

    def value(self, values: Floats) -> float:
        """Returns √(ωᵀ G ω)."""
        # Rounding can bring the square of a norm of 0 below 0.
        return float(np.sqrt(max(0.0, float(values @ self.gram @ values))))

    def slope(self, values: Floats) -> Floats:
        """Returns G ω / ‖Σ ωᵢ Δᵢ‖; 0 where the norm is 0."""
        norm = self.value(values)
        return np.asarray(self.gram @ values / norm if norm else np.zeros_like(values))

    def words(self) -> str:
        """Returns what it demands, for the user."""
        return f"‖ΔΘ‖ at most {self.highest:g} of ‖Θ‖"


def lowest(
    function: Function,
    start: Floats,
    bounds: Floats,
    names: Sequence[str],
    limits: Sequence[Limit] = (),
) -> tuple[Floats, float]:
    """Returns where a function is lowest in a box within limits, and its value there.

    Args:
        function: what is minimised.
        start: (coordinates,) where the descent begins.
        bounds: (coordinates, 2) lowest and highest values.
        names: of the coordinates.
        limits: on some of them.
    """
    if not limits:
        found = minimize(function, start, jac=True, method="L-BFGS-B", bounds=bounds)
        return np.asarray(found.x), float(found.fun)
    found = minimize(
        function,
        np.clip(start, bounds[:, 0], bounds[:, 1]),
        jac=True,
        method="SLSQP",
        bounds=bounds,
        constraints=[
            _constraint(limit, [names.index(name) for name in limit.names]) for limit in limits
        ],
        options={"ftol": 1e-9, "maxiter": 200},
    )
    return np.clip(found.x, bounds[:, 0], bounds[:, 1]), float(found.fun)


def _constraint(limit: Limit, places: list[int]) -> dict[str, object]:
    """Returns a limit as scipy wants it: a number that is at least 0 where it is kept."""

    def derivatives(values: Floats) -> Floats:
        row = np.zeros_like(values)
        row[places] = -limit.slope(values[places])
        return row

    return {
        "type": "ineq",
        "fun": lambda values: limit.highest - limit.value(values[places]),
        "jac": derivatives,
    }
