"""The gradient of one parameter of one layer for each example, from what a tap caught.

Linear layers and embeddings have formulas. Any other layer without layers inside, such as a norm,
is computed again for all examples at once (torch.func.vmap), from its inputs and output gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from influence.gradients.taps import Caught, is_transposed


def is_seen(module: nn.Module) -> bool:
    """Tells whether the gradients of a module's own parameters can be computed by `layer_gradient`.

    A module with others inside may use its parameters in any way.
    """
    return not any(True for _ in module.children())


def layer_gradient(module: nn.Module, leaf: str, caught: Caught) -> Tensor:
    """Returns the gradient of a parameter for each example, (examples, *shape of the parameter).

    It is computed in float32, or float64 if the model is, whatever the dtype of the activations.

    Args:
        module: a layer for which `is_seen` is True.
        leaf: the parameter's name in the layer: "weight" or "bias".
        caught: what the layer read, and the gradients of what it wrote.
    """
    dtype = torch.promote_types(module.get_parameter(leaf).dtype, torch.float32)
    inputs, gradients = caught.inputs, caught.gradients.to(dtype)
    transposed = is_transposed(module)
    if transposed is not None and leaf == "bias":
        return gradients.sum(1)
    if transposed is not None:
        inputs = inputs.to(dtype)
        return inputs.mT @ gradients if transposed else gradients.mT @ inputs
    # A subclass may do more than look up: Gemma's multiplies the rows.
    if type(module) is nn.Embedding:
        return _looked_up(module, inputs, gradients)
    return _computed_again(module, leaf, inputs, gradients)


def _looked_up(module: nn.Embedding, ids: Tensor, gradients: Tensor) -> Tensor:
    """Returns (examples, tokens, width): each row is the sum of the gradients of its token."""
    size, width = module.weight.shape
    result = gradients.new_zeros(len(ids), size, width)
    first = torch.arange(len(ids), device=ids.device) * size
    result.view(-1, width).index_add_(0, (ids + first[:, None]).flatten(), gradients.flatten(0, 1))
    if module.padding_idx is not None:
        # torch never trains the row of the padding token.
        result[:, module.padding_idx] = 0
    return result


def _computed_again(module: nn.Module, leaf: str, inputs: Tensor, gradients: Tensor) -> Tensor:
    """Returns the gradients of any layer that computes each example by itself."""
    wide = {name: value.detach().to(gradients.dtype) for name, value in module.named_parameters()}
    inputs = inputs.to(gradients.dtype) if inputs.is_floating_point() else inputs

    def alone(inputs: Tensor, gradients: Tensor) -> Tensor:
        def forward(parameter: Tensor) -> Tensor:
            output: Tensor = functional_call(module, wide | {leaf: parameter}, (inputs[None],))
            return output[0]

        _, pull = vjp(forward, wide[leaf])
        (gradient,) = pull(gradients)
        result: Tensor = gradient
        return result

    result: Tensor = vmap(alone)(inputs, gradients)
    return result
