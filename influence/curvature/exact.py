"""The exact damped Gauss-Newton matrix of chosen linear layers, as one dense matrix.

    H = E_z[ 1/T_z Σ_t J_ztᵀ (diag p − p pᵀ) J_zt ]

with J_zt the derivative of the logits of token t by the weights, and p their softmax. On a linear
model it is the Hessian. It takes a backward pass for each logit and the square of the number of
weights in memory, so it is for convex problems, for tests, and to see what EK-FAC loses.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluation.fisher import requiring_gradients
from influence.curvature.kronecker import DAMPING, damping_of
from influence.curvature.layer_passes import gradient_shape
from influence.curvature.token_logits import token_logits, tokens_of
from influence.errors import InfluenceError, InfluenceStopped
from influence.gradients.examples import Examples
from influence.gradients.taps import LinearLayer

LARGEST = 8000
"""The most weights: 0.5 GB for the matrix, and some seconds to factorise it."""

OUTPUTS = 512
"""Logits that are differentiated at once."""


class ExactCurvature(NamedTuple):
    """The matrix, and where each layer is in it."""

    matrix: Tensor
    """(weights, weights) float64, without the damping."""
    damping: Tensor
    """(weights,) float64: λ of each weight's layer."""
    shapes: dict[str, torch.Size]
    """Path -> (outputs, inputs), with the bias as the last input; in the order of the matrix."""

    def solve(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns (H + λI)⁻¹ G for gradients path -> (k, outputs, inputs)."""
        flat = torch.cat([gradients[path].flatten(1) for path in self.shapes], 1).double()
        factor = torch.linalg.cholesky(self.matrix + self.damping.diag())
        solved = torch.cholesky_solve(flat.T, factor).T
        sizes = [shape.numel() for shape in self.shapes.values()]
        return {
            path: part.reshape(-1, *self.shapes[path])
            for path, part in zip(self.shapes, torch.split(solved, sizes, 1), strict=True)
        }


def exact_curvature(
    module: nn.Module,
    layers: Mapping[str, LinearLayer],
    sets: Mapping[str, Examples],
    weights: Mapping[str, float],
    *,
    damping: float = DAMPING,
    should_stop: Callable[[], bool] = lambda: False,
) -> ExactCurvature:
    """Returns the Gauss-Newton matrix of some layers; arguments and errors as in fisher_blocks.

    Raises:
        InfluenceError: the layers have more than LARGEST weights.
    """
    shapes = {path: torch.Size(gradient_shape(layer)) for path, layer in layers.items()}
    size = sum(shape.numel() for shape in shapes.values())
    if size > LARGEST:
        raise InfluenceError(
            f"the exact curvature of {size:,} weights is a matrix of {size**2 * 8 / 1e9:,.0f} GB; "
            f"at most {LARGEST:,} weights are expected. Choose fewer layers, or take ekfac."
        )
    device = next(module.parameters()).device
    matrix = torch.zeros(size, size, dtype=torch.float64, device=device)
    used = [tensor for layer in layers.values() for tensor in _parameters(layer)]
    with requiring_gradients(used):
        for name, examples in sets.items():
            for batch in examples.batches:
                if should_stop():
                    raise InfluenceStopped(f"stopped at {name}")
                scale = (weights[name] / tokens_of(batch)).sqrt().to(device)
                for rows in _roots(layers, token_logits(module, batch), scale):
                    matrix += rows.T @ rows
    return ExactCurvature(matrix, _damping(matrix, shapes, damping), shapes)


def _damping(matrix: Tensor, shapes: Mapping[str, torch.Size], share: float) -> Tensor:
    """Returns λ for each weight: the mean of a block's diagonal is that of its eigenvalues."""
    parts = torch.split(matrix.diag(), [shape.numel() for shape in shapes.values()])
    return torch.cat(
        [
            torch.full_like(part, damping_of(path, float(part.mean()), share))
            for path, part in zip(shapes, parts, strict=True)
        ]
    )


def _roots(layers: Mapping[str, LinearLayer], logits: Tensor, scale: Tensor) -> Iterator[Tensor]:
    """Yields rows R, (k, weights) float64, with ΣRᵀR the matrix of a batch.

    The row of class c is √p_c · (J_c − Σ p_c' J_c'), times the scale of its token.
    """
    classes = logits.shape[1]
    used = [tensor for layer in layers.values() for tensor in _parameters(layer)]
    step = max(1, OUTPUTS // classes)
    for start in range(0, len(logits), step):
        some = logits[start : start + step]
        each = torch.eye(some.numel(), dtype=some.dtype, device=some.device)
        derivatives = torch.autograd.grad(
            some,
            used,
            each.view(-1, *some.shape),
            is_grads_batched=True,
            retain_graph=True,
            materialize_grads=True,
        )
        jacobian = _joined(layers, list(derivatives)).double().view(*some.shape, -1)
        p = some.detach().double().softmax(-1)[..., None]
        centred = jacobian - (p * jacobian).sum(1, keepdim=True)
        yield (centred * p.sqrt() * scale[start : start + step, None, None]).flatten(0, 1)


def _joined(layers: Mapping[str, LinearLayer], derivatives: list[Tensor]) -> Tensor:
    """Returns (k, weights) from the derivatives of weights and biases, (k, …) each."""
    parts = []
    for layer in layers.values():
        weight = derivatives.pop(0)
        weight = weight.mT if layer.transposed else weight
        if layer.bias is not None:
            weight = torch.cat([weight, derivatives.pop(0)[..., None]], -1)
        parts.append(weight.flatten(1))
    return torch.cat(parts, 1)


def _parameters(layer: LinearLayer) -> list[nn.Parameter]:
    tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    return [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]
