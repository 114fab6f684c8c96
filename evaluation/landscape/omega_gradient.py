"""Computes the derivatives of a loss with respect to all ω, from one backward pass.

    ∂L/∂ωᵢ = Σ_t ⟨∂L/∂W_t, Δᵢ,t⟩        of the composition W = Θ + Σ ωᵢ Δᵢ, over its tensors t

The terms of single tensors are kept, because they are the derivatives for ω of their own in each
group of layers. It is the chain rule; AdaMerging (arXiv 2310.02575) descends along the same
derivatives.
"""

import inspect
import math
from collections import deque
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

    The module's own weights stay as they are. See SlopeSweep for the arguments, the memory and the
    errors.

    Args:
        module, views, vectors: see SlopeSweep.
        prepared: what `prepare` made with this model's tokenizer.
        should_stop: see SlopeSweep.step.
    """
    check_vocabulary(module, prepared)
    for dataset in prepared.datasets:
        sweep = SlopeSweep(module, views, vectors, dataset)
        while not sweep.done:
            sweep.step(should_stop)
        yield sweep.slope()


class SlopeSweep:
    """The loss on one dataset with its derivatives, in steps, so that other work can come between.

    The sums are kept here and not in the module. So the module may compute something else between
    two steps, as long as each step finds it with the same weights.

    The gradients of the module's parameters are held while the sweep lasts, in float32.

    Args:
        module: holds a sum of the vectors, Θ + Σ ωᵢ Δᵢ, with any ω; in evaluation mode.
        views: name of a file tensor -> where it lies in the module.
        vectors: the Δᵢ, in any order, which is that of the result.
        dataset: one of `Prepared.datasets`.

    Attributes:
        positions: token positions computed so far, with padding.
    """

    def __init__(
        self,
        module: nn.Module,
        views: Mapping[str, View],
        vectors: Sequence[Vector],
        dataset: Dataset,
    ) -> None:
        self._module, self._views, self._vectors, self._dataset = module, views, vectors, dataset
        self._held = _parameters(module, views, vectors)
        self._batches = deque(dataset.batches)
        # In float32 at least: in bfloat16 a sum over batches would lose the small ones.
        self._sums = [
            torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
            for parameter in self._held.values()
        ]
        self._examples = torch.zeros(dataset.n, dtype=torch.float64)
        self._counts = torch.zeros(dataset.n, dtype=torch.float64)
        self.positions = 0

    @property
    def done(self) -> bool:
        """Whether every batch was computed."""
        return not self._batches

    def step(self, should_stop: Callable[[], bool] | None = None) -> None:
        """Computes the next batch, or several side by side.

        Args:
            should_stop: asked before each batch, and before each matrix product in it.

        Raises:
            Stopped: `should_stop` returned True. The sweep cannot go on after this.
            DataError: a token is outside the model's vocabulary.
        """
        parameters = list(self._held.values())
        selects = "logits_to_keep" in inspect.signature(self._module.forward).parameters

        def compute(batch: Batch) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            if should_stop is not None and should_stop():
                raise Stopped(f"stopped at dataset {self._dataset.name!r}")
            # A thread of the pool has gradients switched on; the caller's may be in inference mode.
            with torch.inference_mode(False), torch.enable_grad():
                losses = token_losses(self._module, batch, selects, should_stop)
                gradients = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
            return losses.detach().to("cpu", torch.float64), gradients

        count = min(side_by_side(self._module), len(self._batches))
        taken = [self._batches.popleft() for _ in range(count)]
        with _requiring_gradients(parameters):
            measured = (
                in_order(taken, compute, room=count, threads=count)
                if count > 1
                else map(compute, taken)
            )
            for batch, (losses, gradients) in zip(taken, measured, strict=True):
                self._examples.index_add_(0, batch.examples, losses)
                self._counts.index_add_(0, batch.examples, torch.ones_like(losses))
                self.positions += batch.ids.numel()
                for total, gradient in zip(self._sums, gradients, strict=True):
                    if gradient is not None:
                        total.add_(gradient.detach())

    def slope(self) -> Slope:
        """Returns the result, once the sweep is `done`; each vector is read once for it."""
        names = _names(self._views, self._vectors, self._held)
        by_parameter = dict(zip(self._held, self._sums, strict=True))
        values = torch.zeros(len(self._vectors), len(names), dtype=torch.float64)
        for column, name in enumerate(names):
            view = self._views[name]
            gradient = region(by_parameter[view.parameter], view)
            for row, vector in enumerate(self._vectors):
                values[row, column] = _product(vector, name, gradient)
        loss = loss_of(self._dataset, self._examples, self._counts)
        return Slope(loss, names, values / self._dataset.tokens)


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
