"""Computes the derivatives of a loss with respect to all ω, from one backward pass.

    ∂L/∂ωᵢ = Σ_t ⟨∂L/∂W_t, Δᵢ,t⟩        of the composition W = Θ + Σ ωᵢ Δᵢ, over its tensors t

The terms of single tensors are kept, because they are the derivatives for ω of their own in each
group of layers. It is the chain rule; AdaMerging (arXiv 2310.02575) descends along the same
derivatives.

A parameter that only adapters change needs no gradient; see adapter_taps.py. The others have one.
"""

import inspect
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.errors import Stopped
from evaluation.fisher import requiring_gradients
from evaluation.landscape.slope_paths import SlopePaths
from evaluation.loss import Loss, loss_of, side_by_side, token_losses
from evaluation.prepared import Batch, Dataset, parts
from merging.inputs.lora_vector import LoraVector
from merging.inputs.vector import Vector
from merging.live.live_model import region
from merging.threads import in_order

PIECE = 2**22
"""Elements of a delta that are read at once."""
POSITIONS = 256
"""Positions of a batch of a model of more than LARGE parameters, on a CPU.

Two batches of 512 positions side by side take 0.9 GB with 135 million parameters, for the values
that the backward pass needs. On a small model such a batch takes longer than half of a larger one.
"""
LARGE = 16_000_000


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


class _Measured(NamedTuple):
    """What one batch gives."""

    losses: Tensor
    """(tokens,) float64, on the CPU."""
    scales: dict[str, Tensor]
    """Parameter -> (ranks,) float64, on the CPU: the gradient for the scale of each rank-one
    term."""
    weights: dict[str, Tensor]
    """Parameter -> its gradient."""
    silent: set[str]
    """Parameters whose tapped layers were not all called."""


class SlopeSweep:
    """The loss on one dataset with its derivatives, in steps, so that other work can come between.

    The sums are kept here and not in the module. So the module may compute something else between
    two steps, as long as each step finds it with the same weights.

    While the sweep lasts, it holds a float32 gradient of each parameter in `SlopePaths.weighted`.

    Args:
        paths: the module, its vectors, and how derivatives are computed.
        dataset: one of `Prepared.datasets`.

    Attributes:
        positions: token positions computed so far, with padding.
    """

    def __init__(self, paths: SlopePaths, dataset: Dataset) -> None:
        self._paths, self._dataset = paths, dataset
        self._batches = deque(
            part
            for batch in dataset.batches
            for part in (parts(batch, POSITIONS) if _is_split(paths) else [batch])
        )
        self._weighted = dict(paths.weighted)
        self._tapped = list(paths.owners)
        self._scales: dict[str, Tensor] = {}
        # In float32 at least: in bfloat16 a sum over batches would lose the small ones.
        self._weights: dict[str, Tensor] = {}
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
            should_stop: asked before each batch and before each matrix product in it; of the
                backward pass, at each layer that adapters change.

        Raises:
            Stopped: `should_stop` returned True. The batches are then still to be computed.
            DataError: a token is outside the model's vocabulary.
        """
        module = self._paths.module
        count = min(side_by_side(module), len(self._batches))
        batches = [self._batches[place] for place in range(count)]
        with self._paths.taps().mounted():
            while True:
                measured = self._compute(batches, should_stop)
                silent = set[str]().union(*(each.silent for each in measured))
                if not silent:
                    break
                # The model uses such a weight without calling its layer, or no token went there.
                # Only a gradient of the weight tells which.
                self._tapped = [name for name in self._tapped if name not in silent]
                self._weighted |= {name: self._paths.parameter(name) for name in silent}
        for batch, each in zip(batches, measured, strict=True):
            self._batches.popleft()
            self._add(batch, each)

    def _compute(
        self, batches: Sequence[Batch], should_stop: Callable[[], bool] | None
    ) -> list[_Measured]:
        """Returns what each batch gives; the arguments and errors are those of `step`."""
        selects = "logits_to_keep" in inspect.signature(self._paths.module.forward).parameters
        weighted, taps = list(self._weighted.values()), self._paths.taps()

        def check() -> None:
            if should_stop is not None and should_stop():
                raise Stopped(f"stopped at dataset {self._dataset.name!r}")

        def compute(batch: Batch) -> _Measured:
            check()
            # A thread of the pool has gradients switched on; the caller's may be in inference mode.
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                taps.recorded(self._tapped, check) as (zeros, called),
            ):
                losses = token_losses(self._paths.module, batch, selects, should_stop)
                silent = self._silent(called)
                if silent:
                    return _Measured(losses, {}, {}, silent)
                wanted = [*zeros.values(), *weighted]
                found = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
            named = zip([*zeros, *self._weighted], found, strict=True)
            gradients = {name: value for name, value in named if value is not None}
            return _Measured(
                losses.detach().to("cpu", torch.float64),
                {name: gradients[name].cpu() for name in zeros if name in gradients},
                {name: gradients[name] for name in self._weighted if name in gradients},
                silent,
            )

        with requiring_gradients(weighted):
            if len(batches) == 1:
                return [compute(batches[0])]
            threads = len(batches)
            return list(in_order(batches, compute, room=threads, threads=threads))

    def _silent(self, called: set[str]) -> set[str]:
        """Returns the tapped parameters that have a layer that was not called."""
        return {
            name
            for name in self._tapped
            if any(layer.path not in called for layer in self._paths.owners[name])
        }

    def _add(self, batch: Batch, measured: _Measured) -> None:
        """Adds what a batch gave to the sums."""
        self._examples.index_add_(0, batch.examples, measured.losses)
        self._counts.index_add_(0, batch.examples, torch.ones_like(measured.losses))
        self.positions += batch.ids.numel()
        for name, scales in measured.scales.items():
            self._scales[name] = self._scales.get(name, 0) + scales
        for name, gradient in measured.weights.items():
            if name not in self._weights:
                dtype = torch.promote_types(gradient.dtype, torch.float32)
                self._weights[name] = torch.zeros_like(gradient, dtype=dtype)
            self._weights[name].add_(gradient.detach())

    def slope(self) -> Slope:
        """Returns the result, once the sweep is `done`; each dense vector is read once for it."""
        paths = self._paths
        names = tuple(paths.tensors)
        values = torch.zeros(len(paths.vectors), len(names), dtype=torch.float64)
        columns = {name: column for column, name in enumerate(names)}
        for name, view in paths.tensors.items():
            if view.parameter not in self._weights:
                continue
            gradient = region(self._weights[view.parameter], view)
            for row, vector in enumerate(paths.vectors):
                values[row, columns[name]] += _product(vector, name, gradient)
        for parameter, scales in self._scales.items():
            start = 0
            for term in paths.taps().terms(parameter):
                part = scales[start : start + term.rank]
                values[term.vector, columns[term.tensor]] += term.scale * part.sum()
                start += term.rank
        loss = loss_of(self._dataset, self._examples, self._counts)
        return Slope(loss, names, values / self._dataset.tokens)


def _is_split(paths: SlopePaths) -> bool:
    """Whether batches are split. With gradients of weights each part would add to all of them."""
    weights = list(paths.module.parameters())
    large = sum(weight.numel() for weight in weights) > LARGE
    return large and weights[0].device.type == "cpu" and not paths.needs_weight_gradients


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
