"""Computes the derivatives of a loss with respect to all ω, from one backward pass.

    ∂L/∂ωᵢ = Σ_t ⟨∂L/∂W_t, Δᵢ,t⟩        of the composition W = Θ + Σ ωᵢ Δᵢ, over its tensors t

The terms of single tensors are kept, because they are the derivatives for ω of their own in each
group of layers. It is the chain rule; AdaMerging (arXiv 2310.02575) descends along the same
derivatives.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluation.errors import Stopped
from evaluation.loss import Loss, check_vocabulary, loss_of, side_by_side, token_losses
from evaluation.prepared import Batch, Dataset, Prepared
from merging.engine.threads import in_order
from merging.inputs.lora_vector import LoraVector
from merging.inputs.vector import Vector
from merging.live.live_model import View, region

PIECE = 2**22
"""Elements of a delta that are read at once."""


class Slope(NamedTuple):
    """The loss of a composition on one dataset, with its derivatives."""

    loss: Loss
    tensors: tuple[str, ...]
    """Names of the tensors of the files that some vector changes."""
    values: Tensor
    """(vectors, tensors) float64: the derivative of the loss with respect to the ω of a vector at a
    tensor, in nats per supervised token and unit of ω."""

    @property
    def gradient(self) -> Tensor:
        """(vectors,) float64: the derivative with respect to each ω that all tensors share."""
        return self.values.sum(1)


def slopes(
    module: nn.Module,
    views: Mapping[str, View],
    vectors: Sequence[Vector],
    prepared: Prepared,
    *,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[Slope]:
    """Computes the loss and its derivatives on each dataset, and yields each as soon as known.

    The gradients of the module's parameters are held for one dataset at a time, in float32; each
    vector is read once for each dataset. The module's own weights stay as they are.

    Args:
        module: holds a sum of the vectors, Θ + Σ ωᵢ Δᵢ, with any ω; in evaluation mode.
        views: name of a file tensor -> where it lies in the module.
        vectors: the Δᵢ, in any order, which is that of the result.
        prepared: what `prepare` made with this model's tokenizer.
        should_stop: asked before each batch, and before each matrix product in it.

    Raises:
        Stopped: `should_stop` returned True. What was yielded before is valid.
        DataError: a token is outside the model's vocabulary.
    """
    check_vocabulary(module, prepared)
    held = _parameters(module, views, vectors)
    names = _names(views, vectors, held)
    for dataset in prepared.datasets:
        with _requiring_gradients(list(held.values())):
            loss, sums = _sums(module, list(held.values()), dataset, should_stop)
        by_parameter = dict(zip(held, sums, strict=True))
        values = torch.zeros(len(vectors), len(names), dtype=torch.float64)
        for column, name in enumerate(names):
            gradient = region(by_parameter[views[name].parameter], views[name])
            for row, vector in enumerate(vectors):
                values[row, column] = _product(vector, name, gradient)
        yield Slope(loss, names, values / dataset.tokens)


def _parameters(
    module: nn.Module, views: Mapping[str, View], vectors: Sequence[Vector]
) -> dict[str, nn.Parameter]:
    """Returns the parameters that some vector changes; of a tied one, the first name in `views`."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    held: dict[int, tuple[str, nn.Parameter]] = {}
    for name, view in views.items():
        changes = any(name in vector for vector in vectors)
        if changes and (parameter := parameters.get(view.parameter)) is not None:
            held.setdefault(id(parameter), (view.parameter, parameter))
    return dict(held.values())


def _names(
    views: Mapping[str, View], vectors: Sequence[Vector], held: Mapping[str, nn.Parameter]
) -> tuple[str, ...]:
    """Returns the tensors to multiply with: two names of one memory are one tensor."""
    seen: set[View] = set()
    names = []
    for name, view in views.items():
        changes = any(name in vector for vector in vectors)
        if changes and view.parameter in held and view not in seen:
            seen.add(view)
            names.append(name)
    return tuple(names)


@contextmanager
def _requiring_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Lets parameters take part in gradients while the block lasts; they are loaded without."""
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)


def _sums(
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    dataset: Dataset,
    should_stop: Callable[[], bool] | None,
) -> tuple[Loss, list[Tensor]]:
    """Returns the loss on a dataset, and the gradient of its sum over tokens, in float32."""
    selects = "logits_to_keep" in inspect.signature(module.forward).parameters

    def compute(batch: Batch) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        if should_stop is not None and should_stop():
            raise Stopped(f"stopped at dataset {dataset.name!r}")
        # A thread of the pool has gradients switched on; the caller's may be in inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            losses = token_losses(module, batch, selects, should_stop)
            gradients = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
        return losses.detach().to("cpu", torch.float64), gradients

    # In float32 at least: in bfloat16 a sum over batches would lose the small ones.
    sums = [
        torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
        for parameter in parameters
    ]
    examples = torch.zeros(dataset.n, dtype=torch.float64)
    counts = torch.zeros(dataset.n, dtype=torch.float64)
    count = side_by_side(module)
    measured = (
        in_order(dataset.batches, compute, room=count, threads=count)
        if count > 1
        else map(compute, dataset.batches)
    )
    for batch, (losses, gradients) in zip(dataset.batches, measured, strict=True):
        examples.index_add_(0, batch.examples, losses)
        counts.index_add_(0, batch.examples, torch.ones_like(losses))
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient.detach())
    return loss_of(dataset, examples, counts), sums


def _product(vector: Vector, name: str, gradient: Tensor) -> float:
    """Returns ⟨gradient, Δ⟩ for one tensor of a vector, summed in float64; 0 if it has none."""
    if name not in vector:
        return 0.0
    if isinstance(vector, LoraVector):
        # ⟨G, s·B·A⟩ = s·Σ (BᵀG) ∘ A, so the product of the factors is not computed.
        factors = vector.factors(name)
        left, right = factors.left.to(gradient.device), factors.right.to(gradient.device)
        flat = gradient.reshape(len(left), right.shape[1]).to(left.dtype)
        return factors.scale * float(((left.T @ flat) * right).sum(dtype=torch.float64))
    flat, total = gradient.reshape(-1), 0.0
    for start in range(0, math.prod(gradient.shape), PIECE):
        piece = flat[start : start + PIECE]
        delta = vector.block(name, start, start + piece.numel()).to(piece.device)
        total += float((delta * piece).sum(dtype=torch.float64))
    return total
