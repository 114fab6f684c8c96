"""The inverse of a damped curvature block of one linear layer, from its Kronecker factors.

The gradient of W for one example is Σ_p δ_p x_pᵀ, so its second moment is close to (K-FAC; Martens
and Grosse, arXiv 1503.05671)

    H ≈ B ⊗ A,    A = E[x xᵀ] (inputs),    B = E[δ δᵀ] (outputs)

With A = Q_A diag(a) Q_Aᵀ and B = Q_B diag(b) Q_Bᵀ, the eigenvalues of H are Λ = b aᵀ. EK-FAC keeps
the eigenvectors and replaces Λ by the true second moments along them (George et al.,
arXiv 1806.03884; Grosse et al., arXiv 2308.03296, section 2.4):

    Λ = E[(Q_Bᵀ G Q_A)²]        (H + λI)⁻¹ G = Q_B [ Q_Bᵀ G Q_A / (Λ + λ) ] Q_Aᵀ

λ is a share of the mean of Λ, so that it suits layers of any scale.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from influence.errors import InfluenceError

DAMPING = 0.1
"""λ as a share of a layer's mean eigenvalue."""

EXACT_EIGH = 4096
"""Up to this size eigenvectors are computed in float64; above it, that takes hours on a CPU."""


class Eigenbasis(NamedTuple):
    """The eigenvectors of both factors of a layer, and K-FAC's eigenvalues."""

    inputs: Tensor
    """Q_A, (inputs, inputs): one eigenvector per column."""
    outputs: Tensor
    """Q_B, (outputs, outputs)."""
    values: Tensor
    """Λ of K-FAC, (outputs, inputs)."""

    @classmethod
    def of(cls, inputs: Tensor, outputs: Tensor) -> "Eigenbasis":
        """Decomposes A, (inputs, inputs), and B, (outputs, outputs)."""
        (a, q_a), (b, q_b) = _eigh(inputs), _eigh(outputs)
        return cls(q_a, q_b, torch.outer(b, a))

    def rotate(self, gradients: Tensor) -> Tensor:
        """Returns Q_Bᵀ G Q_A for gradients (…, outputs, inputs)."""
        return self.outputs.T @ gradients @ self.inputs

    def rotate_back(self, rotated: Tensor) -> Tensor:
        """Returns Q_B V Q_Aᵀ, which undoes `rotate`."""
        return self.outputs @ rotated @ self.inputs.T


class KroneckerBlock(NamedTuple):
    """One layer's curvature in its eigenbasis."""

    basis: Eigenbasis
    values: Tensor
    """Λ, (outputs, inputs), 0 or more: `basis.values`, or corrected."""
    damping: float
    """λ."""

    def solve(self, gradients: Tensor) -> Tensor:
        """Returns (H + λI)⁻¹ G for gradients G, (…, outputs, inputs)."""
        return self.basis.rotate_back(self.basis.rotate(gradients) / (self.values + self.damping))


def damping_of(path: str, mean: float, share: float) -> float:
    """Returns λ for a layer whose eigenvalues have this mean.

    Raises:
        InfluenceError: the share is not above 0, or the mean is 0 or no finite number.
    """
    if not share > 0:
        raise InfluenceError(
            f"the damping is {share}; expected a share of the mean eigenvalue above 0, such as "
            f"{DAMPING}. Without damping, directions that no data has seen are divided by 0."
        )
    if not 0 < mean < float("inf"):
        raise InfluenceError(
            f"the curvature of {path} has the mean eigenvalue {mean}; expected a finite number "
            "above 0. It is 0 where no gradient arrives, as at LoRA's A while B is still 0: train "
            "first, or leave the layer out."
        )
    return share * mean


def spread_of(values: Tensor) -> float:
    """Returns Var(Λ)/mean(Λ)²."""
    wide = values.double()
    return float(wide.var(correction=0) / wide.mean().square())


def _eigh(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Returns eigenvalues, none below 0, and eigenvectors of a symmetric matrix, in its dtype."""
    exact = factor.double() if len(factor) <= EXACT_EIGH and factor.device.type != "mps" else factor
    values, vectors = torch.linalg.eigh(exact)
    # A factor is a sum of squares; what is below 0 is rounding.
    return values.clamp(min=0).to(factor.dtype), vectors.to(factor.dtype)
