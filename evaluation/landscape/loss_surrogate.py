"""Surrogate: a model of a dataset's loss over ω, fitted to losses and derivatives, with its error.

It is a Gaussian process: a quadratic function plus a smooth remainder, conditioned on what was
measured. A loss and its n derivatives at a point are n + 1 numbers, and points with and without
derivatives may be mixed. A quadratic alone is biased near the optimum: the remainder corrects it
there, and the more, the more was measured nearby.

The three settings (how much curvature is expected, how far the remainder reaches, and how exact
the measurements are) are those of a small grid that make the measurements likeliest (Rasmussen and
Williams, 2006, eq. 5.8), with the overall variance in closed form. The error is what
the process expects, times how far it was off for each measured point that was left out of the fit
(eq. 5.12, with all numbers of a point left out at once).
"""

from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve  # type: ignore[import-untyped]

from evaluation.landscape.kernel import Floats, features, prior, smooth
from merging.one_thread import one_thread

LENGTHS = (0.45, 0.7, 1.1, 1.6)
"""ℓ: how far the remainder keeps its sign, in units of ω."""
QUADRATIC = (0.1, 1.0, 10.0)
"""Variances of the quadratic coefficients, in units of the remainder's. On the demo wider ranges of
both gave larger errors: few points make extreme settings likely."""
NEARLY_QUADRATIC = (100.0, 1000.0)
"""Further ones, once there are at least as many numbers as a quadratic has coefficients."""
NOISE = (1e-6, 1e-4)
"""Variances of a measurement about the function, likewise: losses of the same examples differ by
rounding only."""
WEAK = 0.9
"""R² for points left out below which a surrogate is weak."""


class Predicted(NamedTuple):
    """Losses that the surrogate expects."""

    mean: Floats
    """(q,)"""
    error: Floats
    """(q,): one standard deviation."""


class Expansion(NamedTuple):
    """An expected loss as a quadratic plus one bump for each measured point.

    c + bᵀx + ½xᵀAx + Σⱼ exp(−‖dⱼ‖²/2ℓ²) · (vⱼ + sⱼᵀdⱼ/ℓ²),    dⱼ = x − xⱼ
    """

    constant: float
    linear: Floats
    """b, (n,)"""
    curvature: Floats
    """A, (n, n), symmetric."""
    points: Floats
    """xⱼ, (m, n)"""
    values: Floats
    """vⱼ, (m,)"""
    slopes: Floats
    """sⱼ, (m, n)"""
    length: float
    """ℓ"""

    def at(self, point: Floats) -> tuple[float, Floats]:
        """Returns the sum at a point (n,), and its derivatives (n,)."""
        apart = (point - self.points) / self.length**2
        bumps = np.exp(-0.5 * (apart * (point - self.points)).sum(1))
        heights = self.values + (apart * self.slopes).sum(1)
        bent = self.curvature @ point
        loss = self.constant + self.linear @ point + 0.5 * point @ bent + bumps @ heights
        slope = self.linear + bent - (bumps * heights) @ apart
        return float(loss), slope + bumps @ self.slopes / self.length**2


class Spread(NamedTuple):
    """From what the error of an expected loss follows, beside the measured points; see `predict`.

    The error is √(scale · v), where v is the variance of the process with these settings, given
    the measured points.
    """

    quadratic: float
    """The variance of the quadratic coefficients, in units of the remainder's."""
    length: float
    """ℓ"""
    noise: float
    """The variance of a measurement, likewise."""
    scale: float
    """The variance of the remainder, times the square of how far errors were off."""


class _Fit(NamedTuple):
    """The process under one choice of its settings."""

    likelihood: float
    quadratic: float
    length: float
    noise: float
    factor: tuple[Floats, bool]
    weights: Floats
    """K⁻¹ · measurements."""
    variance: float
    """The overall variance."""


class Surrogate:
    """A model of a loss over ω.

    Args:
        points: (m, n) ω, m at least 1.
        losses: (m,) what was measured there; finite.
        slopes: (m, n) its derivatives; rows of NaN where they were not measured. None if nowhere.
    """

    def __init__(self, points: Floats, losses: Floats, slopes: Floats | None = None) -> None:
        self.points = np.asarray(points, dtype=np.float64)
        m, n = self.points.shape
        given = np.full((m, n), np.nan) if slopes is None else np.asarray(slopes, dtype=np.float64)
        rows = np.concatenate([np.asarray(losses, dtype=np.float64), given.reshape(-1)])
        self._known = np.isfinite(rows)
        self._rows = rows[self._known]
        # The measured point that each number belongs to.
        self._owner = np.concatenate([np.arange(m), np.repeat(np.arange(m), n)])[self._known]
        self._features = features(self.points)[self._known]
        with one_thread:
            self._fit = self._likeliest()
            self._stretch = self._calibrate()

    def predict(self, points: Floats) -> Predicted:
        """Returns the losses that are expected at (q, n) points, with their errors."""
        at = np.asarray(points, dtype=np.float64)
        q, n = at.shape
        with one_thread:
            own, cross = self._covariances(at)
            mean = cross[:q] @ self._fit.weights
            lost = (cross[:q] * cho_solve(self._fit.factor, cross[:q].T).T).sum(1)
        spread = (own[:q] ** 2 * prior(n, self._fit.quadratic)).sum(1) + 1.0 - lost
        error = np.sqrt(np.maximum(spread, 0.0) * self._fit.variance)
        return Predicted(mean, error * self._stretch)

    def at(self, point: Floats) -> tuple[float, Floats]:
        """Returns the expected loss at one point (n,), and its derivatives (n,).

        The loss is that of `predict`, from sums that are prepared once: an optimiser asks for it
        hundreds of times.
        """
        return self.expansion.at(np.asarray(point, dtype=np.float64))

    @cached_property
    def expansion(self) -> Expansion:
        """The expected loss as a sum of few terms."""
        m, n = self.points.shape
        weights = np.zeros(m * (n + 1))
        weights[self._known] = self._fit.weights
        coefficients = prior(n, self._fit.quadratic) * (self._features.T @ self._fit.weights)
        curvature = np.zeros((n, n))
        curvature[np.triu_indices(n)] = coefficients[1 + n :]
        return Expansion(
            float(coefficients[0]),
            coefficients[1 : 1 + n],
            curvature + curvature.T,
            self.points,
            weights[:m],
            weights[m:].reshape(m, n),
            self._fit.length,
        )

    @property
    def spread(self) -> Spread:
        """The settings from which `predict` computes its errors."""
        fit = self._fit
        return Spread(fit.quadratic, fit.length, fit.noise, fit.variance * self._stretch**2)

    def left_out(self) -> Predicted:
        """Returns what is expected at each measured point without its own numbers.

        The settings stay those of the whole fit. The errors are not stretched.
        """
        inverse = cho_solve(self._fit.factor, np.eye(len(self._rows)))
        means, errors = np.empty(len(self.points)), np.empty(len(self.points))
        for number in range(len(self.points)):
            mine = np.flatnonzero(self._owner == number)
            covariance = np.linalg.inv(inverse[np.ix_(mine, mine)])
            residual = covariance @ self._fit.weights[mine]
            # The loss is the first of a point's numbers.
            means[number] = self._rows[mine[0]] - residual[0]
            errors[number] = np.sqrt(max(covariance[0, 0], 0.0) * self._fit.variance)
        return Predicted(means, errors)

    def r2(self) -> float:
        """Returns the share of the losses' variance that is predicted for points left out.

        R² = 1 − Σ (loss − expected without this point)² / Σ (loss − mean)²; NaN for fewer than
        three points or equal losses.
        """
        losses = self._rows[: len(self.points)]
        spread = float(((losses - losses.mean()) ** 2).sum())
        if len(losses) < 3 or spread == 0:
            return float("nan")
        return 1.0 - float(((losses - self.left_out().mean) ** 2).sum()) / spread

    @property
    def is_weak(self) -> bool:
        """Whether points left out are predicted badly although the others determine a quadratic.

        With fewer numbers R² says that little was measured, and nothing of the loss. Equal losses
        are predicted as well as can be.
        """
        others = len(self._rows) - int(np.bincount(self._owner).max())
        return others >= self._features.shape[1] and self.r2() < WEAK

    def _covariances(self, at: Floats) -> tuple[Floats, Floats]:
        """Returns the features of points, and their covariances with what was measured."""
        own = features(at)
        cross = (own * prior(at.shape[1], self._fit.quadratic)) @ self._features.T
        return own, cross + smooth(at, self.points, self._fit.length)[:, self._known]

    def _likeliest(self) -> _Fit:
        """Returns the fit under the likeliest settings."""
        n, count = self.points.shape[1], len(self._rows)
        determined = count >= self._features.shape[1]
        curvatures = QUADRATIC + NEARLY_QUADRATIC * determined
        fits = []
        rest = {
            length: smooth(self.points, self.points, length)[np.ix_(self._known, self._known)]
            for length in LENGTHS
        }
        for length, quadratic in product(LENGTHS, curvatures):
            covariance = (self._features * prior(n, quadratic)) @ self._features.T + rest[length]
            for noise in NOISE:
                try:
                    factor = cho_factor(covariance + noise * np.eye(count), lower=True)
                # Points that nearly coincide; a larger noise separates them.
                except LinAlgError:
                    continue
                weights = cho_solve(factor, self._rows)
                # Not below rounding: equal losses everywhere have no variance at all.
                variance = max(float(self._rows @ weights) / count, 1e-20)
                logs = np.log(np.diag(factor[0])).sum()
                likelihood = -0.5 * count * np.log(variance) - logs
                fits.append(_Fit(likelihood, quadratic, length, noise, factor, weights, variance))
        return max(fits, key=lambda fit: fit.likelihood)

    def _calibrate(self) -> float:
        """Returns how much larger errors of points left out were than expected; at least 1."""
        # With two points or fewer, what is left explains nothing.
        if len(self.points) < 3:
            return 1.0
        out, losses = self.left_out(), self._rows[: len(self.points)]
        ratios = (losses - out.mean) / np.maximum(out.error, 1e-12)
        return max(1.0, float(np.sqrt((ratios**2).mean())))
