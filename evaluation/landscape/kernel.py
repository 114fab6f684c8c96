"""The covariance of a function and of its derivatives between points; see loss_surrogate.py.

    k(x, y) = τ₀² + τ₁² Σ xᵢyᵢ + q Σ_{i≤j} xᵢxⱼ yᵢyⱼ + exp(−‖x − y‖² / 2ℓ²)

The first three terms are those of a quadratic function with random coefficients, the last one is
what a quadratic leaves over. A derivative of a Gaussian process is one as well, and its covariance
is the derivative of k (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
eq. 9.1).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONSTANT, LINEAR = 1e4, 1e2
"""τ₀² and τ₁², in units of the last term's variance: so wide that the data decide."""


def features(points: Floats) -> Floats:
    """Returns 1, xᵢ and xᵢxⱼ (i ≤ j) of each point, and below them their derivatives.

    Args:
        points: (m, n).

    Returns:
        (m·(n + 1), 1 + n + n(n + 1)/2): first the rows of the m points, then n rows for each point,
        the derivatives with respect to each coordinate.
    """
    m, n = points.shape
    first, second = np.triu_indices(n)
    values = np.hstack([np.ones((m, 1)), points, points[:, first] * points[:, second]])
    slopes = np.zeros((m, n, values.shape[1]))
    slopes[:, range(n), range(1, n + 1)] = 1
    columns = np.arange(1 + n, values.shape[1])
    # One after the other, because both add to the same place where i = j.
    slopes[:, first, columns] += points[:, second]
    slopes[:, second, columns] += points[:, first]
    return np.vstack([values, slopes.reshape(m * n, -1)])


def prior(n: int, quadratic: float) -> Floats:
    """Returns the variance of the coefficient of each feature of n coordinates."""
    return np.concatenate(
        [[CONSTANT], np.full(n, LINEAR), np.full(n * (n + 1) // 2, float(quadratic))]
    )


def smooth(points: Floats, others: Floats, length: float) -> Floats:
    """Returns the covariances of the last term of k, of values and derivatives.

    Args:
        points: (m, n).
        others: (q, n).
        length: ℓ.

    Returns:
        (m·(n + 1), q·(n + 1)), in the order of `features`.
    """
    (m, n), q = points.shape, len(others)
    apart = (points[:, None] - others[None]) / length
    k = np.exp(-0.5 * (apart**2).sum(-1))
    slope = k[..., None] * apart / length
    products = apart[..., :, None] * apart[..., None, :]
    curvature = k[..., None, None] * (np.eye(n) - products) / length**2
    top = np.hstack([k, slope.reshape(m, q * n)])
    left = -slope.transpose(0, 2, 1).reshape(m * n, q)
    rest = curvature.transpose(0, 2, 1, 3).reshape(m * n, q * n)
    return np.vstack([top, np.hstack([left, rest])])
