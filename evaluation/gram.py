"""Second moments of the inputs of a model's linear layers; the formula is in evaluation/model_statistics.py."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.unpadded import EqualLengthBatch
from merging.live.live_model import View


def gram(
    module: nn.Module, views: Mapping[str, View], steps: Iterator[EqualLengthBatch], positions: int
) -> tuple[dict[str, Tensor], list[str]]:
    """File tensor -> the mean of xᵀx, and which tensors are stored with the inputs first."""
    device = next(module.parameters()).device
    axes = _linear_layers(module)
    with _moments(module, axes) as sums, torch.inference_mode():
        for part in steps:
            module(input_ids=part.ids.to(device), use_cache=False)
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
            if (axis == 0) != view.transposed:
                inputs_first.append(name)
    return tensors, inputs_first


def embeddings(module: nn.Module) -> set[int]:
    """The weights of embeddings, by identity."""
    return {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}


def _linear_layers(module: nn.Module) -> dict[int, int]:
    """The weights of linear layers, by identity, and the axis of their inputs.

    One that is an embedding too is left out: its rows are looked up and not only multiplied.
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
    """For each linear layer the sum of xᵀx over all that it is called with; 0 for experts that no token reaches."""
    sums: dict[int, Tensor] = {}

    def add(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        inputs = (given[0] if given else next(iter(named.values()))).flatten(0, -2).float()
        sums[id(layer.weight)].addmm_(inputs.T, inputs)

    hooks = []
    try:
        for layer in module.modules():
            weight = getattr(layer, "weight", None)
            if id(weight) in axes:
                assert isinstance(weight, Tensor)
                size = weight.shape[axes[id(weight)]]
                sums[id(weight)] = torch.zeros(size, size, device=weight.device)
                hooks.append(layer.register_forward_pre_hook(add, with_kwargs=True))
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def _all_inputs(view: View, size: int, axis: int) -> bool:
    """Whether a file tensor has all inputs of its layer: q, k and v may be rows of one weight, but not some columns."""
    if any(isinstance(step, int) for step in view.index):
        return False
    return len(view.index) <= axis or view.index[axis] == (0, size)
