"""Finds the layers that use a tensor, and computes what a low-rank change adds to their output."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from merging.errors import NotMounted
from merging.live.live_model import View, resolve

Kind = Literal["linear", "conv1d", "embedding"]
"""How a layer computes: y = x Wᵀ, y = x W (GPT-2's Conv1D), or y = W[x]."""


class Layer(NamedTuple):
    """A module that computes with a parameter."""

    path: str
    module: nn.Module
    kind: Kind


class Use(NamedTuple):
    """A parameter or buffer of a module: several may share the same memory."""

    path: str
    module: nn.Module
    leaf: str
    value: Tensor


class Pair(NamedTuple):
    """A low-rank product, in the order in which a layer multiplies its input by the factors."""

    down: Tensor
    """(rank, inputs), or (tokens, rank) for an embedding."""
    up: Tensor
    """(outputs, rank)."""


def uses(root: nn.Module) -> dict[int, list[Use]]:
    """Returns memory address -> the parameters and buffers that lie there.

    A tied head has the address of its embedding.
    """
    by_address = defaultdict(list)
    for path, module in root.named_modules():
        for leaf, value in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ):
            # By memory and not by name: a tied head is the same parameter under a second name, and
            # a view of a fused parameter is another object in the same memory.
            by_address[value.untyped_storage().data_ptr()].append(
                Use(path, module, leaf, value.detach())
            )
    return dict(by_address)


def layers(
    root: nn.Module, name: str, view: View, used: Mapping[int, list[Use]]
) -> tuple[Layer, ...]:
    """Returns every layer that computes with a tensor of the files.

    Args:
        root: the module.
        name: the tensor's name, for the message.
        view: where the tensor lies in the module.
        used: the result of `uses(root)`.

    Raises:
        NotMounted: if the tensor is part of a larger parameter, or if something other than a plain
            linear or embedding layer uses it.
    """
    if view.index:
        raise NotMounted(
            f"{name} is a part of {view.parameter}, in which the module fuses several tensors."
        )
    whole = resolve(root, View(view.parameter))
    users = []
    for path, module, leaf, value in used[whole.untyped_storage().data_ptr()]:
        # A module that uses another part of the same memory is refused as well.
        kind = (
            _kind(module, leaf)
            if (value.data_ptr(), value.shape) == (whole.data_ptr(), whole.shape)
            else None
        )
        if kind is None:
            raise NotMounted(
                f"{name} is used by {path or 'the model'} ({type(module).__name__}.{leaf}), which "
                "is not a plain linear layer or embedding."
            )
        users.append(Layer(path, module, kind))
    return tuple(users)


def _kind(module: nn.Module, leaf: str) -> Kind | None:
    """Returns how a module computes with its parameter; None if that is unknown.

    A subclass, or a module whose forward was replaced, may compute anything.
    """
    if leaf != "weight" or "forward" in vars(module):
        return None
    if type(module) is nn.Linear:
        return "linear"
    # With max_norm, forward rewrites the rows that it looks up.
    if type(module) is nn.Embedding and module.max_norm is None:
        return "embedding"
    # A class of transformers, which this package does not import, so it is recognised by name and
    # attributes; PEFT too decides by its type.
    conv1d = (
        type(module).__name__ == "Conv1D"
        and getattr(module, "nf", None) == module.get_parameter("weight").shape[1]
    )
    return "conv1d" if conv1d else None


def pair(kind: Kind, left: Tensor, right: Tensor) -> Pair:
    """Returns left @ right in the order in which a layer of this kind multiplies.

    Args:
        kind: how the layer computes.
        left: (rows of the parameter, rank).
        right: (rank, columns of the parameter).
    """
    if kind == "linear":
        return Pair(right, left)
    return Pair(left if kind == "embedding" else left.T.contiguous(), right.T.contiguous())


def product_output(kind: Kind, inputs: Tensor, pair: Pair, scale: Tensor) -> Tensor:
    """Returns what a low-rank product adds to a layer's output, in the dtype of the pair.

    Args:
        kind: how the layer computes.
        inputs: the layer's input: floats (…, inputs), or for an embedding token ids (…).
        pair: the product.
        scale: (rank,), the factor of each rank-one term.

    Returns:
        (…, outputs).
    """
    inner = (
        embedding(inputs, pair.down)
        if kind == "embedding"
        else linear(inputs.to(pair.down.dtype), pair.down)
    )
    return linear(inner * scale, pair.up)


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which products are computed: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)
