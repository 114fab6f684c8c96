"""Computes second moments of the inputs of a model's linear layers.

The formula is in evaluation/model_statistics.py.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.cpu_products import CpuProducts
from evaluation.unpadded import EqualLengthBatch
from merging.live.live_model import View


def gram(
    module: nn.Module, views: Mapping[str, View], steps: Iterator[EqualLengthBatch], positions: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the mean of xᵀx over all positions, for each file tensor that is a linear layer.

    Args:
        module: the model.
        views: name of a file tensor -> its region of a parameter.
        steps: the examples, without padding.
        positions: how many token positions `steps` has in all.

    Returns:
        Name of a file tensor -> (inputs, inputs) float32; and the names of the tensors that are
        stored with the inputs as the first axis.
    """
    device = next(module.parameters()).device
    axes = _linear_layers(module)
    with _moments(module, axes) as sums, torch.inference_mode():
        for batch in steps:
            with CpuProducts():
                module(input_ids=batch.ids.to(device), use_cache=False)
        for total in sums.values():
            total.div_(positions)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    tensors, inputs_first = {}, []
    for name, view in views.items():
        parameter = parameters.get(view.parameter)
        if parameter is not None and id(parameter) in axes:
            axis = axes[id(parameter)]
            if not _all_inputs(view, parameter.shape[axis], axis):
                continue
            tensors[name] = sums[id(parameter)]
            # Loading may turn a matrix, so the axis in the file may be the other one.
            if (axis == 0) != view.transposed:
                inputs_first.append(name)
    return tensors, inputs_first


def embeddings(module: nn.Module) -> set[int]:
    """Returns the ids (Python's `id`) of the weights of a module's embeddings."""
    return {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}


def _linear_layers(module: nn.Module) -> dict[int, int]:
    """Returns the axis of the inputs for the weight of each linear layer, by the weight's id.

    A weight that is an embedding too is left out: its rows are looked up and not only multiplied.
    """
    from transformers.pytorch_utils import Conv1D

    looked_up = embeddings(module)
    axes = {
        id(layer.weight): 0 if isinstance(layer, Conv1D) else 1
        for layer in module.modules()
        if isinstance(layer, nn.Linear | Conv1D)
    }
    return {key: axis for key, axis in axes.items() if key not in looked_up}


@contextmanager
def _moments(module: nn.Module, axes: Mapping[int, int]) -> Iterator[dict[int, Tensor]]:
    """Adds up xᵀx of all inputs of linear layers inside the block: the weight's id -> the sum.

    The sum of an expert that no token reaches is 0.
    """
    sums: dict[int, Tensor] = {}

    def add(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Some architectures call their layers with keyword arguments only.
        # In float32: the square of a float16 activation overflows from 256 on.
        inputs = (args[0] if args else next(iter(kwargs.values()))).flatten(0, -2).float()
        sums[id(layer.weight)].addmm_(inputs.T, inputs)

    hooks = []
    try:
        for layer in module.modules():
            weight = getattr(layer, "weight", None)
            if id(weight) in axes:
                assert isinstance(weight, Tensor)
                size = weight.shape[axes[id(weight)]]
                # Zeros for every layer in advance, so that an expert that no token reaches has a
                # sum too.
                sums[id(weight)] = torch.zeros(size, size, device=weight.device)
                hooks.append(layer.register_forward_pre_hook(add, with_kwargs=True))
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def _all_inputs(view: View, size: int, axis: int) -> bool:
    """Whether a file tensor has all inputs of its layer.

    q, k and v may be rows of one fused weight; a tensor with only some columns has no moments.
    """
    if any(isinstance(step, int) for step in view.index):
        return False
    return len(view.index) <= axis or view.index[axis] == (0, size)
