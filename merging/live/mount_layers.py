"""Where a tensor is used in a module, and what a low-rank change of it adds to the output there."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from merging.errors import NotMounted
from merging.live.live_model import View, resolve

Kind = Literal["linear", "conv1d", "embedding"]
"""y = x Wᵀ, y = x W (GPT-2's Conv1D), y = W[x]."""


class Layer(NamedTuple):
    """A module that computes with a parameter."""

    path: str
    module: nn.Module
    kind: Kind


class Use(NamedTuple):
    """A parameter or buffer of a module, by whatever name."""

    path: str
    module: nn.Module
    leaf: str
    value: Tensor


class Pair(NamedTuple):
    """A low-rank product in the order in which a layer's input meets it."""

    down: Tensor
    """(rank, inputs), or (tokens, rank) for an embedding."""
    up: Tensor
    """(outputs, rank)."""


def uses(root: nn.Module) -> dict[int, list[Use]]:
    """Address of memory -> all that lies in it: a tied head is under its embedding's address."""
    found = defaultdict(list)
    for path, module in root.named_modules():
        for leaf, value in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ):
            found[value.untyped_storage().data_ptr()].append(
                Use(path, module, leaf, value.detach())
            )
    return dict(found)


def layers(
    root: nn.Module, name: str, view: View, used: Mapping[int, list[Use]]
) -> tuple[Layer, ...]:
    """Every layer that computes with a tensor of the files.

    Args:
        root: the module.
        name: the tensor's, for the message.
        view: where it lives.
        used: what `uses` found.

    Raises:
        NotMounted: where it is part of a larger parameter, or something else than a plain layer uses it.
    """
    if view.index:
        raise NotMounted(
            f"{name} is a part of {view.parameter}, in which the module fuses several tensors."
        )
    whole = resolve(root, View(view.parameter))
    found = []
    for path, module, leaf, value in used[whole.untyped_storage().data_ptr()]:
        kind = (
            _kind(module, leaf)
            if (value.data_ptr(), value.shape) == (whole.data_ptr(), whole.shape)
            else None
        )
        if kind is None:
            raise NotMounted(
                f"{name} is used by {path or 'the model'} ({type(module).__name__}.{leaf}), which is no plain linear layer "
                "or embedding."
            )
        found.append(Layer(path, module, kind))
    return tuple(found)


def _kind(module: nn.Module, leaf: str) -> Kind | None:
    """None for what may compute anything: a subclass, or a module whose forward was replaced."""
    if leaf != "weight" or "forward" in vars(module):
        return None
    if type(module) is nn.Linear:
        return "linear"
    if type(module) is nn.Embedding and module.max_norm is None:
        return "embedding"
    # transformers' class, which this package does not import; PEFT knows it by its type too.
    conv1d = (
        type(module).__name__ == "Conv1D"
        and getattr(module, "nf", None) == module.get_parameter("weight").shape[1]
    )
    return "conv1d" if conv1d else None


def pair(kind: Kind, left: Tensor, right: Tensor) -> Pair:
    """The product left @ right, (rows, rank) and (rank, columns) of the parameter, as a layer of this kind meets it."""
    if kind == "linear":
        return Pair(right, left)
    return Pair(left if kind == "embedding" else left.T.contiguous(), right.T.contiguous())


def added(kind: Kind, given: Tensor, pair: Pair, scale: Tensor) -> Tensor:
    """What the product, its rank-one terms scaled, adds to a layer's output, in the dtype of the pair.

    Args:
        kind: of the layer.
        given: its input: (…, inputs) floats, or token numbers.
        pair: the product.
        scale: (rank,).
    """
    inner = (
        embedding(given, pair.down)
        if kind == "embedding"
        else linear(given.to(pair.down.dtype), pair.down)
    )
    return linear(inner * scale, pair.up)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which products are computed: float32, or float64 where the module is."""
    return torch.promote_types(dtype, torch.float32)
