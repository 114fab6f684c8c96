"""The diagonal of the Fisher information of a model on examples; the formula is in evaluation/model_statistics.py."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from evaluation.unpadded import EqualLengthBatch
from merging.engine.loop import seed_of
from merging.live.live_model import View


def fisher(
    module: nn.Module,
    views: Mapping[str, View],
    steps: Iterator[EqualLengthBatch],
    examples: int,
    seed: int | None,
) -> dict[str, Tensor]:
    """File tensor -> the mean of squared gradients; `seed` is None for the data's own tokens."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    used = {
        view.parameter: parameters[view.parameter]
        for view in views.values()
        if view.parameter in parameters
    }
    if not used:
        return {}
    with _squares({id(value): value for value in used.values()}) as sums:
        for part in steps:
            _log_likelihood(module, part, seed).backward()  # type: ignore[no-untyped-call]
    for total in sums.values():
        total.div_(examples)
    return {
        name: _region(sums[id(used[view.parameter])], view)
        for name, view in views.items()
        if view.parameter in used
    }


@contextmanager
def _squares(parameters: Mapping[int, nn.Parameter]) -> Iterator[dict[int, Tensor]]:
    """For each parameter the sum, over backward passes, of its squared gradient, which is freed as soon as it is added."""
    sums = {key: torch.zeros_like(value, dtype=torch.float32) for key, value in parameters.items()}

    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        sums[id(parameter)].add_(parameter.grad.float().square())
        parameter.grad = None

    required = {key: value.requires_grad for key, value in parameters.items()}
    hooks = []
    try:
        for value in parameters.values():
            value.requires_grad_(True)
            hooks.append(value.register_post_accumulate_grad_hook(add))  # type: ignore[no-untyped-call]
        yield sums
    finally:
        for hook in hooks:
            hook.remove()
        for key, value in parameters.items():
            value.requires_grad_(required[key])


def _log_likelihood(module: nn.Module, part: EqualLengthBatch, seed: int | None) -> Tensor:
    """Σ log p over the supervised tokens of one example, as a graph; a scalar in float32."""
    device = next(module.parameters()).device
    selects = "logits_to_keep" in inspect.signature(module.forward).parameters
    keep = {"logits_to_keep": part.positions.to(device)} if selects else {}
    logits = module(input_ids=part.ids.to(device), use_cache=False, **keep).logits[0].float()
    logs = (logits if len(logits) == len(part.positions) else logits[part.positions]).log_softmax(
        -1
    )
    targets = part.targets
    if seed is not None:
        generator = torch.Generator().manual_seed(
            seed_of(seed, part.dataset, str(part.examples[0]))
        )
        targets = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator)[:, 0]
    total: Tensor = logs.gather(1, targets.to(device)[:, None]).sum()
    return total


def _region(values: Tensor, view: View) -> Tensor:
    """The part of a parameter's statistics that is a file tensor's, in the orientation of the file."""
    steps = tuple(slice(*step) if isinstance(step, tuple) else step for step in view.index)
    region = values[steps] if steps else values
    return region.transpose(-2, -1) if view.transposed else region
