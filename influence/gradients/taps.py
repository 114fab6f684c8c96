"""Taps: the inputs of layers and the gradients of their outputs, caught from one pass of a batch.

For a linear layer y = W x the gradient of W for example e of a batch is

    ∂L/∂W = Σ_p ĝ_ep x_epᵀ        over the positions p, with ĝ the gradient of y

so inputs and output gradients of an ordinary batch hold the gradients of all its examples, and the
factors of K-FAC (Martens and Grosse, arXiv 1503.05671). That is how kronfluence and bergson do it.

No gradient of a weight is computed, and no `requires_grad` matters: where no earlier tensor has a
gradient, as below frozen weights, the graph begins at the first tapped layer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from influence.errors import InfluenceError
from plumbing.suggest import listed


class LinearLayer(NamedTuple):
    """A layer that multiplies its inputs by a matrix: y = x Wᵀ + b, or y = x W + b."""

    module: nn.Module
    """An nn.Linear, also one of PEFT's lora_A and lora_B, or the Conv1D of transformers (GPT-2)."""
    transposed: bool
    """Whether the weight is (inputs, outputs), as in Conv1D, and not (outputs, inputs)."""

    @property
    def weight(self) -> Tensor:
        """The matrix, in the orientation that `transposed` tells."""
        return self.module.get_parameter("weight")

    @property
    def bias(self) -> Tensor | None:
        """(outputs,); None if the layer has none."""
        bias = getattr(self.module, "bias", None)
        return bias if isinstance(bias, Tensor) else None


def linear_layers(root: nn.Module, wanted: str | None = None) -> dict[str, LinearLayer]:
    """Returns linear layers by their paths, in the model's order.

    Layers that share a weight, as a head that is tied to an embedding, are listed each.

    Args:
        root: the model.
        wanted: a regular expression that is searched for in the paths, for example `mlp` or
            `q_proj|v_proj`; the layers need not be trained. By default, the layers whose weight or
            bias is trained (requires_grad).

    Raises:
        InfluenceError: no linear layer is wanted, `wanted` is no regular expression, or it matches
            a module with matrices that is no linear layer, such as the fused experts of Mixtral.
    """
    try:
        pattern = re.compile(wanted or "")
    except re.error as error:
        raise InfluenceError(f"the pattern of layers {wanted!r} cannot be read: {error}.") from None
    found: dict[str, LinearLayer] = {}
    unseen: list[str] = []
    for path, module in root.named_modules():
        own = list(module.parameters(recurse=False))
        if wanted is None and not any(parameter.requires_grad for parameter in own):
            continue
        if not pattern.search(path):
            continue
        if (transposed := is_transposed(module)) is not None:
            found[path] = LinearLayer(module, transposed)
        elif wanted is not None and not isinstance(module, nn.Embedding):
            unseen += [f"{path} ({type(module).__name__})"] * any(p.dim() > 1 for p in own)
    if unseen:
        raise InfluenceError(
            f"the pattern {wanted!r} matches modules whose matrices are not those of a linear "
            f"layer, so their inputs cannot be seen: {listed(unseen)}. Give a pattern that matches "
            "linear layers only."
        )
    if not found:
        what = "is trained (requires_grad)" if wanted is None else f"matches {wanted!r}"
        raise InfluenceError(
            f"no linear layer of this {type(root).__name__} {what}. Its linear layers: "
            f"{listed(_linear_paths(root)) or 'none'}."
        )
    return found


def is_transposed(module: nn.Module) -> bool | None:
    """Tells whether a linear layer's weight is (inputs, outputs); None for any other module."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return True
    return False if isinstance(module, nn.Linear) else None


def _linear_paths(root: nn.Module) -> list[str]:
    return [path for path, module in root.named_modules() if is_transposed(module) is not None]


class Caught(NamedTuple):
    """What a layer read in a pass, and the gradients of what it wrote, example by example.

    If the layer was called several times, its calls follow one another along the positions. So a
    sum over positions is a sum over calls too.
    """

    inputs: Tensor
    """(examples, positions, inputs), in the dtype of the model; for an embedding (examples,
    positions) token ids."""
    gradients: Tensor
    """(examples, positions, outputs): the gradient of the total that was differentiated."""


class LayerTaps:
    """Catches inputs and output gradients of layers while the block lasts.

        with LayerTaps(layers, batch.ids.shape) as taps:
            caught = taps.differentiate(loss_of(model, batch).sum())

    The hooks exist inside the block only, and passes without gradients (torch.no_grad) are not
    caught. Each call of `differentiate` begins anew.

    Args:
        layers: path -> a module that takes one tensor and returns one: a linear layer, an
            embedding, a norm.
        shape: (examples, positions) of the batch.
    """

    def __init__(self, layers: Mapping[str, nn.Module], shape: Sequence[int]) -> None:
        self._layers = dict(layers)
        self._examples, self._positions = shape
        self._handles: list[RemovableHandle] = []
        self._calls: dict[str, list[tuple[Tensor, GradientEdge]]] = defaultdict(list)

    def __enter__(self) -> LayerTaps:
        for path, layer in self._layers.items():
            hook = _Hook(self, path)
            self._handles.append(layer.register_forward_hook(hook.called, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        # After an error too: a hook that stays would hold activations in memory.
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.clear()

    def differentiate(self, total: Tensor) -> dict[str, Caught]:
        """Returns what each layer that was called has read, and the gradients of its outputs.

        Args:
            total: a number that was computed inside the block, with its graph, which is freed.

        Returns:
            Path -> what was caught. A call on which `total` does not depend is left out, and so is
            a layer without any other call.
        """
        calls = [(path, *call) for path, each in self._calls.items() for call in each]
        self._calls.clear()
        edges = [edge for _, _, edge in calls]
        gradients = torch.autograd.grad(total, edges, allow_unused=True) if edges else ()
        caught: dict[str, list[Caught]] = defaultdict(list)
        for (path, inputs, _), gradient in zip(calls, gradients, strict=True):
            if gradient is not None:
                caught[path].append(self._by_example(inputs, gradient))
        return {
            path: each[0]
            if len(each) == 1
            else Caught(*(torch.cat(parts, dim=1) for parts in zip(*each, strict=True)))
            for path, each in caught.items()
        }

    def _by_example(self, inputs: Tensor, gradients: Tensor) -> Caught:
        """Returns both with the axes examples and positions."""
        leading = gradients.dim() - 1
        return Caught(
            inputs.reshape(self._examples, -1, *inputs.shape[leading:]),
            gradients.reshape(self._examples, -1, gradients.shape[-1]),
        )

    def _catch(self, path: str, arguments: Sequence[Any], output: object) -> Tensor:
        """Keeps the input of one call; returns the output that the model goes on with."""
        name = f"{path} ({type(self._layers[path]).__name__})"
        is_seen = len(arguments) == 1 and isinstance(arguments[0], Tensor)
        if not is_seen or not isinstance(output, Tensor):
            raise InfluenceError(
                f"{name} is called with {len(arguments)} arguments, and a layer is seen only if it "
                "takes one tensor and returns one. Leave this layer out, or compute the gradients "
                "one example at a time."
            )
        inputs = arguments[0].detach()
        # The position embedding of GPT-2 is looked up once for the whole batch. Each example gets
        # a copy of its own, because otherwise the gradient is the sum over all of them.
        if output.dim() > 2 and output.shape[0] == 1 < self._examples:
            inputs = inputs.expand(self._examples, *inputs.shape[1:])
            output = output.expand(self._examples, *output.shape[1:])
        leading = output.shape[:-1]
        # OPT joins examples and positions into rows, in order. Experts get rows of any examples.
        rows = (self._examples * self._positions,)
        by_example = len(leading) > 1 and leading[0] == self._examples
        if not (by_example or self._examples == 1 or leading == rows) or (
            inputs.shape[: len(leading)] != leading
        ):
            raise InfluenceError(
                f"{name} reads {tuple(inputs.shape)} and writes {tuple(output.shape)} in a batch "
                f"of {self._examples} examples with {self._positions} positions, so which example "
                "a row belongs to is unknown. Leave this layer out, or compute the gradients one "
                "example at a time."
            )
        if not output.requires_grad:
            # All before this layer is frozen, so the graph begins here. A copy goes on, because a
            # leaf may not be changed in place.
            leaf = output.detach().requires_grad_()
            self._calls[path].append((inputs, get_gradient_edge(leaf)))
            return leaf.clone()
        # Falcon adds to outputs in place. The edge of the layer stays what it was, but for a view.
        output = output if output._base is None else output.clone()
        self._calls[path].append((inputs, get_gradient_edge(output)))
        return output


class _Hook(NamedTuple):
    """Catches the calls of one layer."""

    taps: LayerTaps
    path: str

    def called(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Returns the output; it is a forward hook."""
        if not torch.is_grad_enabled():
            return output
        return self.taps._catch(self.path, [*args, *kwargs.values()], output)
