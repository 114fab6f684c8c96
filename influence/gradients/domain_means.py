"""The mean gradient of the examples of a domain, in which each example counts alike.

IDEAL (arXiv 2505.12762) needs these only, and no gradient of a single example.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from evaluation.prepared import Batch
from influence.errors import InfluenceError, InfluenceStopped
from influence.gradients.examples import Examples, mean_losses


def mean_gradient(
    module: nn.Module,
    examples: Examples,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Tensor]:
    """Returns the mean over the examples of the gradient of each example's loss.

    Args:
        module: a causal language model of transformers in evaluation mode, on any device.
        examples: the examples of a domain, as `read_examples` made them.
        progress: called with the examples done and the examples in all.
        should_stop: asked before each batch.

    Returns:
        Name of a trained parameter -> the gradient, float32, or float64 if the model is.

    Raises:
        InfluenceError: the model is in training mode or trains nothing; an example does not fit it.
        InfluenceStopped: `should_stop` returned True.
    """
    check_model(module)
    examples.check(module)
    count, done = len(examples.records), 0
    total: dict[str, Tensor] = {}
    for batch in examples.batches:
        if should_stop():
            raise InfluenceStopped(f"stopped after {done} of {count} examples")
        for name, gradient in batch_gradient(module, batch)[1].items():
            total[name] = total[name].add_(gradient) if name in total else gradient
        done += len(batch.ids)
        progress(done, count)
    return {name: gradient.div_(count) for name, gradient in total.items()}


def batch_gradient(module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the losses of a batch and the gradient of their sum, by an ordinary backward pass.

    Args:
        module: the model.
        batch: the examples.

    Returns:
        The loss of each example, (examples,), in nats per supervised token; and name of a trained
        parameter -> its gradient, float32, or float64 if the model is. It is zeros for a parameter
        that the losses do not depend on.
    """
    trained = trained_parameters(module)
    with torch.enable_grad():
        losses = mean_losses(module, batch)
    found = torch.autograd.grad(
        losses.sum(), list(trained.values()), allow_unused=True, materialize_grads=True
    )
    gradients = {
        name: gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        for name, gradient in zip(trained, found, strict=True)
    }
    return losses.detach(), gradients


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that are trained (requires_grad); tied ones once, by the first name.

    These are the names of the optimiser's averages too; see influence.gradients.moments.
    """
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def check_model(module: nn.Module) -> None:
    """Refuses a model whose gradients would be random, or that has none.

    Raises:
        InfluenceError: a part is in training mode, or no parameter is trained.
    """
    if any(part.training for part in module.modules()):
        raise InfluenceError(
            "the model is in training mode, in which dropout draws other gradients each time. "
            "Call model.eval() first."
        )
    if not trained_parameters(module):
        raise InfluenceError(
            "no parameter of the model is trained (requires_grad), so there is no gradient. "
            "Put an adapter on the model, or call model.requires_grad_(True)."
        )
