"""regmean by numbers written out, and against least squares on the inputs themselves."""

import pytest
import torch

from merging.methods import _contract
from merging.methods import regmean as module
from merging.methods._values import Site, Statistic


def regmean(stack, grams, omegas=None, *, axis=1, dtype=torch.float64, **given):
    """The method on weights and their Gram matrices (None: the tensor has none)."""
    stack = torch.as_tensor(stack, dtype=dtype)
    known = tuple(
        None if gram is None else Statistic(torch.as_tensor(gram, dtype=dtype), 1.0, axis)
        for gram in grams
    )
    site = Site("w", torch.zeros_like(stack[0]), None, (), known)
    omegas = torch.tensor(omegas or [1.0] * len(stack), dtype=dtype)
    return module.combine(
        stack, omegas, site, **_contract.load("regmean").arguments(given, len(stack))
    )


def data(models=3, tokens=29, inputs=11, outputs=7, seed=0):
    """Inputs (models, tokens, inputs) and weights (models, outputs, inputs)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(models, tokens, inputs, generator=generator, dtype=torch.float64)
    return x, torch.randn(models, outputs, inputs, generator=generator, dtype=torch.float64)


def test_one_input_is_an_average_weighed_by_its_second_moments(close):
    # (3·2 + 1·5) / 4; with ω 1 and 3 (3·2 + 3·5) / 6
    close(regmean([[[2.0]], [[5.0]]], [[[3.0]], [[1.0]]]), [[2.75]])
    close(regmean([[[2.0]], [[5.0]]], [[[3.0]], [[1.0]]], [1.0, 3.0]), [[3.5]])


def test_two_inputs(close):
    # G₁ = [[2, 1], [1, 2]], G₂ = 1: (G₁ + G₂) = [[3, 1], [1, 3]]; G₁(1, 0)ᵀ + G₂(0, 1)ᵀ = (2, 2)ᵀ; solved (0.5, 0.5)
    grams = [[[2.0, 1.0], [1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]]
    close(regmean([[[1.0, 0.0]], [[0.0, 1.0]]], grams, off_diagonal=1.0), [[0.5, 0.5]])
    # without what is beside the diagonals: (2·1 + 1·0) / 3 and (2·0 + 1·1) / 3
    close(regmean([[[1.0, 0.0]], [[0.0, 1.0]]], grams, off_diagonal=0.0), [[2 / 3, 1 / 3]])
    # by 0.5: [[3, .5], [.5, 3]] w = (2, 1.5): determinant 8.75, (6 − 0.75, 4.5 − 1) / 8.75
    close(regmean([[[1.0, 0.0]], [[0.0, 1.0]]], grams, off_diagonal=0.5), [[0.6, 0.4]])


def test_it_is_the_least_squares_fit_of_all_models_outputs():
    """Minimises Σ ω_i ‖X_i Wᵀ − X_i W_iᵀ‖², found here by lstsq on the stacked inputs."""
    x, weights = data()
    omegas = [0.5, 1.0, 2.0]
    roots = torch.tensor(omegas, dtype=torch.float64).sqrt()[:, None, None]
    wanted = torch.linalg.lstsq(
        (roots * x).flatten(0, 1), (roots * (x @ weights.mT)).flatten(0, 1)
    ).solution.T
    found = regmean(weights, x.mT @ x, omegas, off_diagonal=1.0)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_inputs_first_is_the_same_transposed():
    x, weights = data()
    found = regmean(weights.mT, x.mT @ x, axis=0)
    torch.testing.assert_close(found, regmean(weights, x.mT @ x).T, rtol=1e-12, atol=1e-12)


def test_equal_statistics_give_the_average_and_one_model_itself():
    x, weights = data()
    gram = x[0].T @ x[0]
    torch.testing.assert_close(
        regmean(weights, [gram] * 3), weights.mean(0), rtol=1e-12, atol=1e-12
    )
    assert torch.equal(regmean(weights[:1], [gram]), weights[0])


def test_without_statistics_it_is_the_average(close):
    close(regmean([[2.0], [6.0]], [None, None], [1.0, 3.0]), [5.0])


def test_directions_without_inputs_keep_the_average():
    """Four tokens for 11 inputs: the outputs on the data are those of least squares, and the rest is the average's."""
    x, weights = data(models=2, tokens=2)
    found = regmean(weights, x.mT @ x, off_diagonal=1.0)
    seen = x.flatten(0, 1)
    torch.testing.assert_close(
        x @ found.T, x @ weights.mT, rtol=1e-6, atol=1e-6
    )  # 4 equations, 11 unknowns
    moved = found - weights.mean(0)
    assert moved.abs().max() > 0.01
    scaled = (
        moved * seen.square().sum(0).sqrt()
    )  # in inputs of unit size the move is a combination of inputs
    rows = (seen / seen.square().sum(0).sqrt()).T
    residual = scaled.T - rows @ torch.linalg.lstsq(rows, scaled.T).solution
    assert residual.abs().max() < 1e-9


def test_an_input_that_is_always_zero_keeps_the_average(monkeypatch):
    """And costs nothing: eigenvectors are not needed for it."""
    monkeypatch.setattr(torch.linalg, "eigh", lambda _: pytest.fail("eigenvectors were computed"))
    x, weights = data(models=2)
    x[:, :, 3] = 0
    found = regmean(weights, x.mT @ x)
    torch.testing.assert_close(found[:, 3], weights.mean(0)[:, 3])
    rest = [column for column in range(11) if column != 3]
    smaller = regmean(weights[:, :, rest], (x.mT @ x)[:, rest][:, :, rest])
    torch.testing.assert_close(found[:, rest], smaller, rtol=1e-10, atol=1e-10)
    assert torch.equal(regmean(weights, torch.zeros(2, 11, 11)), weights.mean(0))


def test_inputs_of_very_different_size_are_all_solved_for():
    """A feature a million times smaller than another is a feature, not rounding: the solution is equivariant to units."""
    x, weights = data(models=2)
    units = torch.logspace(0, -6, 11, dtype=torch.float64)
    one = regmean(weights, x.mT @ x, off_diagonal=1.0)
    other = regmean(weights / units, (x * units).mT @ (x * units), off_diagonal=1.0)
    torch.testing.assert_close(other * units, one, rtol=1e-8, atol=1e-8)


def test_float32_statistics_are_solved_in_float64():
    x, weights = data(tokens=97)
    grams = (x.mT @ x / 97).float()
    exact = regmean(weights.float().double(), grams.double())
    found = regmean(weights.float(), grams, dtype=torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("rank", [3, 11])
def test_both_ways_of_solving_agree_with_the_pseudo_inverse(rank):
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(rank, 11, generator=generator, dtype=torch.float64)
    left = x.T @ x
    left /= left.diagonal().sqrt().outer(left.diagonal().sqrt())
    right = left @ torch.randn(11, 5, generator=generator, dtype=torch.float64)
    wanted = torch.linalg.pinv(left, rtol=1e-9, hermitian=True) @ right
    torch.testing.assert_close(module.solve(left, right), wanted, rtol=1e-6, atol=1e-6)
    # rounding that happens to leave the matrix positive definite is no information either
    noise = 1e-8 * torch.eye(11, dtype=torch.float64)
    found = module.solve(left + noise, right + 1e-8 * torch.ones(11, 5, dtype=torch.float64))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
