"""The surrogate of a loss: exact for quadratics, honest about its error, equal to its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.landscape.loss_surrogate import WEAK, Surrogate

N = 3


def quadratic(seed):
    """A loss with a known minimum, as a function of points (q, n), and its derivatives."""
    chance = np.random.default_rng(seed)
    root = chance.normal(size=(N, N))
    curvature, centre = root @ root.T + 0.2 * np.eye(N), chance.uniform(0, 1, N)

    def loss(points):
        away = points - centre
        return 1.0 + 0.5 * np.einsum("qi,ij,qj->q", away, curvature, away)

    return loss, lambda points: (points - centre) @ curvature


def bent(points):
    """No quadratic: the logarithm of a sum of exponentials, and its derivatives."""
    rates = np.array([[2.0, 1.0, -3.0], [-1.0, 2.0, 0.5], [0.5, -2.5, 1.0]])
    heights = np.exp(points @ rates.T)
    return np.log(heights.sum(1)), heights / heights.sum(1, keepdims=True) @ rates


@pytest.mark.parametrize("seed", range(4))
def test_a_quadratic_is_known_from_a_few_more_numbers_than_it_has_coefficients(seed):
    loss, slopes = quadratic(seed)
    chance = np.random.default_rng(seed)
    at, points = chance.uniform(0, 1, (50, N)), chance.uniform(0, 1, (15, N))
    for fitted in (
        Surrogate(points, loss(points)),  # 15 numbers for 10 coefficients
        Surrogate(points[:5], loss(points[:5]), slopes(points[:5])),  # 20 numbers
    ):
        assert np.abs(fitted.predict(at).mean - loss(at)).max() < 0.1 * loss(at).std()


def test_it_passes_through_what_was_measured():
    points = np.random.default_rng(0).uniform(0, 1, (5, N))
    losses, slopes = bent(points)
    slopes[2] = np.nan  # not measured there
    fitted = Surrogate(points, losses, slopes)
    there = fitted.predict(points)
    assert there.mean == pytest.approx(losses, abs=1e-3)
    assert there.error.max() < 0.02 * losses.std()
    for number in (0, 1, 3, 4):
        mean, slope = fitted.at(points[number])
        assert mean == pytest.approx(losses[number], abs=1e-3)
        assert slope == pytest.approx(slopes[number], abs=0.02)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_slope_is_the_derivative_of_what_is_expected(seed):
    chance = np.random.default_rng(seed)
    points, at = chance.uniform(0, 1, (6, N)), chance.uniform(0, 1, N)
    losses, slopes = bent(points)
    fitted = Surrogate(points, losses, slopes if seed % 2 else None)
    steps = 1e-4 * np.eye(N)
    rise = fitted.predict(at + steps).mean - fitted.predict(at - steps).mean
    mean, slope = fitted.at(at)
    assert slope == pytest.approx(rise / 2e-4, abs=2e-3)
    assert mean == pytest.approx(float(fitted.predict(at[None]).mean[0]), abs=1e-6)


def test_leaving_a_point_out_is_the_fit_without_it():
    points = np.random.default_rng(1).uniform(0, 1, (7, N))
    losses, slopes = bent(points)
    fitted = Surrogate(points, losses, slopes)
    out = fitted.left_out()
    for number in range(len(points)):
        rest = np.arange(len(points)) != number
        without = Surrogate(points[rest], losses[rest], slopes[rest])
        chosen = fitted._fit.length, fitted._fit.quadratic
        if (without._fit.length, without._fit.quadratic) == chosen:
            expected = without.predict(points[[number]])
            assert out.mean[number] == pytest.approx(expected.mean[0], abs=1e-4)
    assert fitted.r2() == pytest.approx(
        1 - ((losses - out.mean) ** 2).sum() / ((losses - losses.mean()) ** 2).sum()
    )


def test_derivatives_are_worth_more_points():
    chance = np.random.default_rng(2)
    at, points = chance.uniform(0, 1, (200, N)), chance.uniform(0, 1, (6, N))
    losses, slopes = bent(points)
    truth = bent(at)[0]

    def off(fitted):
        return float(np.sqrt(((fitted.predict(at).mean - truth) ** 2).mean()))

    assert off(Surrogate(points, losses, slopes)) < 0.4 * off(Surrogate(points, losses))


@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_as_large_as_the_mistakes(seed):
    chance = np.random.default_rng(seed)
    points, at = chance.uniform(0, 1, (10, N)), chance.uniform(0, 1, (300, N))
    losses, slopes = bent(points)
    expected = Surrogate(points, losses, slopes).predict(at)
    ratio = (bent(at)[0] - expected.mean) / expected.error
    assert 0.05 < np.sqrt((ratio**2).mean()) < 2.5
    # It is larger where less was measured.
    far = Surrogate(points, losses, slopes).predict(at + 1.5).error
    assert far.mean() > 3 * expected.error.mean()


def test_few_points_have_no_r2_and_equal_losses_no_spread():
    points = np.random.default_rng(3).uniform(0, 1, (8, N))
    assert np.isnan(Surrogate(points[:2], np.array([1.0, 2.0])).r2())
    flat = Surrogate(points, np.ones(len(points)))
    assert np.isnan(flat.r2())
    assert flat.predict(np.full((1, N), 0.4)).mean == pytest.approx([1.0], abs=1e-3)


def test_it_is_weak_if_points_left_out_are_missed_although_the_others_determine_a_quadratic():
    chance = np.random.default_rng(4)
    points = chance.uniform(0, 1, (12, N))
    rough = chance.normal(size=12)
    # A quadratic of three ω has ten coefficients.
    assert Surrogate(points, rough).r2() < WEAK and Surrogate(points, rough).is_weak
    assert Surrogate(points[:11], rough[:11]).is_weak
    assert Surrogate(points[:10], rough[:10]).r2() < WEAK
    assert not Surrogate(points[:10], rough[:10]).is_weak
    # A point with derivatives has four numbers; three more points have twelve.
    slopes = chance.normal(size=(4, N))
    assert Surrogate(points[:4], rough[:4], slopes).is_weak
    assert not Surrogate(points[:3], rough[:3], slopes[:3]).is_weak
    loss, _ = quadratic(0)
    assert not Surrogate(points, loss(points)).is_weak
    assert not Surrogate(points, np.ones(12)).is_weak


def test_one_point_and_the_same_point_twice_are_enough():
    alone = Surrogate(np.zeros((1, N)), np.array([0.7]), np.ones((1, N)))
    assert alone.predict(np.zeros((1, N))).mean == pytest.approx([0.7], abs=1e-3)
    twice = Surrogate(np.zeros((2, N)), np.array([0.7, 0.7]))
    assert np.isfinite(twice.predict(np.ones((1, N))).mean).all()
