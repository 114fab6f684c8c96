"""Taps: the derivatives of a loss for the ω of adapters, with no gradient of a weight.

A linear layer y = W x has W = Θ + Σ ωᵢ sᵢ Bᵢ Aᵢ. With ĝ, the gradient of its output, the chain rule
is

    ∂L/∂ωᵢ = sᵢ Σ ⟨ĝ Bᵢ, x Aᵢᵀ⟩        over the tokens x

Both factors are as narrow as the rank. So a backward pass for the activations is enough: half of
the products of a backward pass with gradients of the weights, and none of their memory.

A tap is put on the output of each such layer. It changes no value. In the backward pass it
multiplies ĝ by the adapters' factors.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from merging.errors import NotMounted
from merging.inputs.lora_vector import LoraVector
from merging.inputs.vector import Vector
from merging.live import mount_layers
from merging.live.live_model import View, resolve

Owners = dict[str, tuple[mount_layers.Layer, ...]]
"""Parameter -> the layers that compute with it."""


class AdapterTerm(NamedTuple):
    """What one adapter adds to one tensor of the files."""

    tensor: str
    vector: int
    """Its place among the vectors."""
    rank: int
    scale: float
    """The adapter's own scaling, s."""


class Tap(NamedTuple):
    """The factors of all adapters at one parameter, one after another along the rank."""

    terms: tuple[AdapterTerm, ...]
    layers: tuple[mount_layers.Layer, ...]
    pairs: tuple[mount_layers.Pair, ...]
    """One pair for each layer, in float32, or float64 for a module in float64."""


def owners(module: nn.Module, tensors: Mapping[str, View], vectors: Sequence[Vector]) -> Owners:
    """Returns the parameters that only adapters change and only layers of known kinds use.

    Nothing is read.

    Args:
        module: the model.
        tensors: the tensors that some vector changes, and where they lie in the module.
        vectors: all vectors.
    """
    used, found, refused = mount_layers.uses(module), Owners(), set[str]()
    for name, view in tensors.items():
        sparse = all(isinstance(each, LoraVector) for each in vectors if name in each)
        # A position in a stack, as that of an expert, belongs to no layer of a known kind.
        if not sparse or any(isinstance(step, int) for step in view.index):
            refused.add(view.parameter)
        elif view.parameter not in found.keys() | refused:
            try:
                whole = View(view.parameter)
                found[view.parameter] = mount_layers.layers(module, name, whole, used)
            # Its layer computes in a way of its own: its weight has a gradient, which is right.
            except NotMounted:
                refused.add(view.parameter)
    return {name: layers for name, layers in found.items() if name not in refused}


def tap(
    module: nn.Module,
    parameter: str,
    layers: tuple[mount_layers.Layer, ...],
    tensors: Mapping[str, View],
    vectors: Sequence[Vector],
) -> Tap:
    """Reads the factors of all adapters at one parameter, onto the parameter's device.

    Args:
        module: the model.
        parameter: one of `owners`.
        layers: its layers.
        tensors, vectors: see `owners`.
    """
    like = resolve(module, View(parameter))
    dtype = mount_layers.product_dtype(like.dtype)
    terms, lefts, rights = list[AdapterTerm](), list[Tensor](), list[Tensor]()
    for name, view in tensors.items():
        if view.parameter != parameter:
            continue
        for place, vector in enumerate(vectors):
            if not isinstance(vector, LoraVector) or name not in vector:
                continue
            factors = vector.factors(name)
            left, right = factors.left, factors.right
            if view.transposed:
                left, right = right.T, left.T
            terms.append(AdapterTerm(name, place, left.shape[1], factors.scale))
            rows, columns = _span(view, 0, like.shape[0]), _span(view, 1, like.shape[1])
            # Of a tensor that fills a part of the parameter, the factors are 0 elsewhere.
            lefts.append(like.new_zeros(like.shape[0], left.shape[1], dtype=dtype))
            lefts[-1][rows] = left.to(like.device, dtype)
            rights.append(like.new_zeros(right.shape[0], like.shape[1], dtype=dtype))
            rights[-1][:, columns] = right.to(like.device, dtype)
    left, right = torch.cat(lefts, dim=1), torch.cat(rights)
    pairs = tuple(mount_layers.pair(layer.kind, left, right) for layer in layers)
    return Tap(tuple(terms), layers, pairs)


def _span(view: View, axis: int, size: int) -> slice:
    """Returns the part of an axis of the parameter that a view names."""
    step = view.index[axis] if axis < len(view.index) else (0, size)
    assert isinstance(step, tuple)  # `owners` refuses positions
    return slice(*step)


class Taps:
    """Puts taps on a module, and tells them what each thread computes.

    Args:
        taps: parameter -> its tap.
    """

    def __init__(self, taps: Mapping[str, Tap]) -> None:
        self._taps = taps
        self._mine = _Recording()

    def terms(self, parameter: str) -> tuple[AdapterTerm, ...]:
        """Returns what each adapter adds to a parameter, in the order of its scales."""
        return self._taps[parameter].terms

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Lets the layers of the module be recorded while the block lasts."""
        handles = []
        try:
            for parameter, each in self._taps.items():
                for layer, pair in zip(each.layers, each.pairs, strict=True):
                    hook = _Hook(self._mine, parameter, layer, pair).tapped
                    handles.append(layer.module.register_forward_hook(hook, with_kwargs=True))
            yield
        finally:
            # After an error too: a hook that stays would hold the factors in memory.
            for handle in handles:
                handle.remove()

    @contextmanager
    def recorded(
        self, names: Sequence[str], check: Callable[[], None]
    ) -> Iterator[tuple[dict[str, Tensor], set[str]]]:
        """Records what this thread computes with the module in the block.

        Args:
            names: the parameters to record.
            check: called by each tap in the backward pass; what it raises ends that pass.

        Yields:
            For each parameter a tensor of zeros, (ranks,) float64, whose gradient is that for the
            scale of each rank-one term; and the paths of the layers that were called, which grow.
        """
        factors = {name: self._taps[name].pairs[0].up for name in names}
        zeros = {
            name: up.new_zeros(up.shape[1], dtype=torch.float64).requires_grad_()
            for name, up in factors.items()
        }
        called = set[str]()
        self._mine.zeros, self._mine.called, self._mine.check = zeros, called, check
        try:
            yield zeros, called
        finally:
            self._mine.zeros = {}


class _Recording(threading.local):
    """What a thread records; one of its own for each thread."""

    def __init__(self) -> None:
        self.zeros: dict[str, Tensor] = {}
        self.called: set[str] = set()
        self.check: Callable[[], None] = lambda: None


class _Hook(NamedTuple):
    """Taps a layer's output."""

    recording: _Recording
    parameter: str
    layer: mount_layers.Layer
    pair: mount_layers.Pair

    def tapped(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        """Returns the output with a tap, if this thread records; it is a forward hook."""
        zeros = self.recording.zeros.get(self.parameter)
        if zeros is None:
            return output
        self.recording.called.add(self.layer.path)
        # These layers take one argument, by position or by keyword.
        inputs = args[0] if args else next(iter(kwargs.values()))
        down, up = self.pair
        with torch.no_grad():
            inner = (
                embedding(inputs, down)
                if self.layer.kind == "embedding"
                else linear(inputs.to(down.dtype), down)
            )
        check = self.recording.check
        result: Tensor = _Tapped.apply(output, zeros, inner, up, check)  # type: ignore[no-untyped-call]
        return result


class _Tapped(torch.autograd.Function):
    """The identity, whose backward pass also computes the gradient for the scales."""

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        zeros: Tensor,
        inner: Tensor,
        up: Tensor,
        check: Callable[[], None],
    ) -> Tensor:
        # `inner` is all that is kept of the layer's input: (…, ranks).
        ctx.save_for_backward(inner, up)
        ctx.check = check
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.check()
        inner, up = ctx.saved_tensors
        outer = gradients[0].to(up.dtype) @ up
        products = (outer * inner).reshape(-1, up.shape[1])
        return gradients[0], products.sum(0, dtype=torch.float64), None, None, None
