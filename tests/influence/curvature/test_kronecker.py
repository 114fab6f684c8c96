"""The linear algebra of one block, against dense matrices in float64."""

import pytest
import torch

from influence.curvature.kronecker import Eigenbasis, KroneckerBlock, damping_of, spread_of
from influence.errors import InfluenceError

OUTPUTS, INPUTS = 5, 7


def factors(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, delta = draw(INPUTS, 11), draw(OUTPUTS, 3)  # B has rank 3 of 5
    return x @ x.T, delta @ delta.T, draw(4, OUTPUTS, INPUTS)


def dense(matrix, gradients):
    """matrix⁻¹ g for each gradient, flattened by rows."""
    return torch.linalg.solve(matrix, gradients.flatten(1).T).T.view_as(gradients)


def test_kfac_is_the_kronecker_product():
    a, b, gradients = factors()
    block = KroneckerBlock(basis := Eigenbasis.of(a, b), basis.values, 0.3)
    whole = torch.kron(b, a) + 0.3 * torch.eye(OUTPUTS * INPUTS, dtype=torch.float64)
    torch.testing.assert_close(block.solve(gradients), dense(whole, gradients))
    assert (basis.values >= 0).all()


def test_corrected_values_are_the_diagonal_in_the_eigenbasis():
    """(Q diag(Λ) Qᵀ + λI)⁻¹ with Q = Q_B ⊗ Q_A and any Λ."""
    a, b, gradients = factors(1)
    basis = Eigenbasis.of(a, b)
    values = torch.rand(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(2)).double()
    q = torch.kron(basis.outputs, basis.inputs)
    whole = q @ (values.flatten() + 0.1).diag() @ q.T
    solved = KroneckerBlock(basis, values, 0.1).solve(gradients)
    torch.testing.assert_close(solved, dense(whole, gradients))


def test_rotating_back_undoes_rotating():
    a, b, gradients = factors(3)
    basis = Eigenbasis.of(a, b)
    torch.testing.assert_close(basis.rotate_back(basis.rotate(gradients)), gradients)


def test_by_hand():
    # A = diag(4, 1), B = (2): Λ = (8, 2); with λ = 2, (10, 8) becomes (1, 2).
    basis = Eigenbasis.of(torch.diag(torch.tensor([4.0, 1.0])), torch.tensor([[2.0]]))
    solved = KroneckerBlock(basis, basis.values, 2.0).solve(torch.tensor([[[10.0, 8.0]]]))
    torch.testing.assert_close(solved, torch.tensor([[[1.0, 2.0]]]))


def test_eigenvectors_of_float32_factors_are_found_in_float64():
    """A factor of condition 1e12, whose small eigenvalues float32's own eigh gives as rounding."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    factor = (q @ torch.logspace(0, -5, 6, dtype=torch.float64).diag() @ q.T).float()
    basis = Eigenbasis.of(factor, torch.ones(1, 1))
    exact = torch.linalg.eigvalsh(factor.double())
    torch.testing.assert_close(basis.values[0].double(), exact, rtol=1e-6, atol=0)
    assert basis.inputs.dtype == torch.float32


def test_damping_and_spread_by_hand():
    assert damping_of("mlp", 3.0, 0.1) == pytest.approx(0.3)
    # mean 2, variance 1
    assert spread_of(torch.tensor([[1.0, 3.0]])) == pytest.approx(0.25)


@pytest.mark.parametrize("share", [0.0, -0.1, float("nan")])
def test_damping_of_zero_is_refused(share):
    with pytest.raises(InfluenceError, match="expected a share of the mean eigenvalue above 0"):
        damping_of("mlp", 3.0, share)


@pytest.mark.parametrize("mean", [0.0, float("nan"), float("inf")])
def test_a_layer_without_curvature_is_named(mean):
    with pytest.raises(InfluenceError, match=r"the curvature of layers.0.mlp .* LoRA's A while B"):
        damping_of("layers.0.mlp", mean, 0.1)
