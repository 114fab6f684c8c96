"""Computes the diagonal of a model's Fisher information on examples.

The formula is in evaluation/model_statistics.py.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from evaluation.cpu_products import CpuProducts
from evaluation.unpadded import EqualLengthBatch
from merging.engine.task import seed_of
from merging.live.live_model import View, region


def fisher(
    module: nn.Module,
    views: Mapping[str, View],
    steps: Iterator[EqualLengthBatch],
    examples: int,
    seed: int | None,
) -> dict[str, Tensor]:
    """Returns, per file tensor, the mean over examples of the squared gradient, as float32.

    Args:
        module: the model.
        views: name of a file tensor -> its region of a parameter.
        steps: the examples, one at a time; squares of a sum over several would be another number.
        examples: how many `steps` yields.
        seed: for tokens that are drawn from the model; None for the data's own tokens.

    Returns:
        The tensors that fill parameters, in the shape and orientation of the file.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    used = {
        view.parameter: parameters[view.parameter]
        for view in views.values()
        if view.parameter in parameters
    }
    if not used:
        return {}
    # Parameters by identity, because tied weights are one parameter with several names.
    with _squares({id(value): value for value in used.values()}) as sums:
        for example in steps:
            _log_likelihood(module, example, seed).backward()  # type: ignore[no-untyped-call]
    for total in sums.values():
        total.div_(examples)
    return {
        name: region(sums[id(used[view.parameter])], view)
        for name, view in views.items()
        if view.parameter in used
    }


@contextmanager
def requiring_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Lets parameters take part in gradients while the block lasts; they are loaded without.

    They are given back as they were, also if the block is left by an error.
    """
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)


@contextmanager
def _squares(parameters: Mapping[int, nn.Parameter]) -> Iterator[dict[int, Tensor]]:
    """Adds up squared gradients over the backward passes of the block: parameter's id -> the sum.

    A gradient is freed as soon as its square was added, so that only one is in memory at a time.
    """
    # In float32, whatever the model's dtype: a gradient of 1e-5 squares to 1e-10, which float16
    # does not hold.
    sums = {key: torch.zeros_like(value, dtype=torch.float32) for key, value in parameters.items()}

    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        sums[id(parameter)].add_(parameter.grad.float().square())
        parameter.grad = None

    with requiring_gradients(list(parameters.values())), ExitStack() as hooks:
        for value in parameters.values():
            # This hook runs once per parameter and backward pass, with the summed gradient. A tied
            # weight gets gradients from several places, and the square must be that of their sum.
            hook = value.register_post_accumulate_grad_hook(add)  # type: ignore[no-untyped-call]
            hooks.callback(hook.remove)
        yield sums


def _log_likelihood(module: nn.Module, example: EqualLengthBatch, seed: int | None) -> Tensor:
    """Returns Σ log p over the supervised tokens of one example: float32, with its graph."""
    device = next(module.parameters()).device
    # Only supervised positions go through the output layer, because logits are as wide as the
    # vocabulary.
    selects = "logits_to_keep" in inspect.signature(module.forward).parameters
    keep = {"logits_to_keep": example.positions.to(device)} if selects else {}
    with CpuProducts():
        logits = module(input_ids=example.ids.to(device), use_cache=False, **keep).logits[0].float()
    # A model whose wrapper swallowed logits_to_keep returns the logits of all positions.
    if len(logits) != len(example.positions):
        logits = logits[example.positions]
    logs = logits.log_softmax(-1)
    targets = example.targets
    if seed is not None:
        # Drawn on the CPU from a seed of the example, so that the tokens depend neither on the
        # device nor on the order of the examples.
        generator = torch.Generator().manual_seed(
            seed_of(seed, example.dataset, str(example.examples[0]))
        )
        targets = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator)[:, 0]
    total: Tensor = logs.gather(1, targets.to(device)[:, None]).sum()
    return total
