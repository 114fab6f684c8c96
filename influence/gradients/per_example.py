"""The gradient of each example's loss, from one forward and one backward pass of a whole batch.

The sum of the examples' losses is differentiated. Each example affects its own activations only, so
the taps (influence.gradients.taps) see all gradients at once; nothing is divided by the size of the
batch. The result is the same whatever the batch: in a model without dropout an example does not
depend on the others, and padding comes after everything that is learned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluation.prepared import Batch, parts
from influence.errors import InfluenceError
from influence.gradients.domain_means import batch_gradient, check_model
from influence.gradients.examples import Examples, mean_losses, numbers
from influence.gradients.layer_gradients import is_seen, layer_gradient
from influence.gradients.taps import Caught, LayerTaps
from plumbing.suggest import listed, nearest

EVERY = slice(None)
"""All examples of a batch."""

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Dtype of a parameter -> how far the sum over a batch's examples may be from autograd's gradient,
as a share of all norms. Rounding is far below; a contribution that is not seen is far above."""

ADVICE = "Compute the gradients one example at a time, or train LoRA on the linear layers only."


@dataclass(frozen=True)
class ExampleGradients:
    """The gradients of the examples of one batch, computed one parameter at a time.

    So a caller can project the gradients of a parameter and drop them before it asks for the next;
    all parameters of all examples are never in memory.
    """

    numbers: Tensor
    """(examples,) int64: the number of each example, as in `Examples.records`."""
    losses: Tensor
    """(examples,): the loss of each, in nats per supervised token."""
    names: tuple[str, ...]
    """The trained parameters, in the model's order."""
    compute: Callable[[str, slice], Tensor]
    """The function behind `of`."""

    def of(self, name: str, rows: slice = EVERY) -> Tensor:
        """Returns the gradients of a parameter, (examples, *shape), on the model's device.

        They are float32, or float64 if the model is.

        Args:
            name: one of `names`.
            rows: which examples; a part of them takes less memory. An embedding of 49152 x 576
                takes 113 MB for each example.
        """
        if name not in self.names:
            raise InfluenceError(f"no parameter {name!r} is trained; {nearest(name, self.names)}")
        return self.compute(name, rows)


class _Use(NamedTuple):
    """A layer that computes with a parameter."""

    path: str
    module: nn.Module
    leaf: str
    """Its name in the layer."""


def per_example(module: nn.Module, examples: Examples) -> Iterator[ExampleGradients]:
    """Yields the gradients of each batch, the one with the longest examples first.

    Before the first, the gradients of two examples are added up and compared with autograd's. So a
    model that uses a weight in a way that is not seen is refused at once.

    Args:
        module: a causal language model of transformers in evaluation mode, on any device. The
            parameters that are trained (requires_grad) have gradients.
        examples: what `read_examples` made with this model's tokenizer.

    Raises:
        InfluenceError: the model is in training mode, trains nothing, or has a trained parameter
            whose gradients cannot be seen; the message names it. An example does not fit the model.
    """
    check_model(module)
    examples.check(module)
    uses = _uses(module)
    shortest = examples.batches[-1]
    _verify(module, uses, next(parts(shortest, 2 * shortest.ids.shape[1])))
    for batch in examples.batches:
        yield _gradients(module, uses, batch)


def _uses(module: nn.Module) -> dict[str, list[_Use]]:
    """Returns the layers that compute with each trained parameter; tied ones have several."""
    owners: dict[int, list[_Use]] = defaultdict(list)
    for path, layer in module.named_modules():
        for leaf, value in layer.named_parameters(recurse=False):
            owners[id(value)].append(_Use(path, layer, leaf))
    uses = {
        name: owners[id(value)] for name, value in module.named_parameters() if value.requires_grad
    }
    unseen = [
        f"{name} of {type(use.module).__name__}"
        for name, each in uses.items()
        for use in each
        if not is_seen(use.module)
    ]
    if unseen:
        raise InfluenceError(
            "the gradients of these parameters cannot be seen in a batch, because they are not "
            f"those of a linear layer, an embedding or a norm: {listed(unseen)}. {ADVICE}"
        )
    return uses


def _gradients(module: nn.Module, uses: dict[str, list[_Use]], batch: Batch) -> ExampleGradients:
    """Runs the model on a batch, forward and backward."""
    layers = {use.path: use.module for each in uses.values() for use in each}
    with torch.enable_grad(), LayerTaps(layers, batch.ids.shape) as taps:
        losses = mean_losses(module, batch)
        caught = taps.differentiate(losses.sum())
    parameters = dict(module.named_parameters())

    def compute(name: str, rows: slice) -> Tensor:
        each = [
            layer_gradient(use.module, use.leaf, Caught(*(part[rows] for part in caught[use.path])))
            for use in uses[name]
            if use.path in caught
        ]
        if each:
            return sum(each[1:], start=each[0])
        # As that of an adapter whose layer was not called.
        like = parameters[name]
        count = len(range(*rows.indices(len(losses))))
        dtype = torch.promote_types(like.dtype, torch.float32)
        return like.new_zeros(count, *like.shape, dtype=dtype)

    return ExampleGradients(numbers(batch), losses.detach(), tuple(uses), compute)


def _verify(module: nn.Module, uses: dict[str, list[_Use]], batch: Batch) -> None:
    """Compares the sum over a batch's examples with autograd's gradient of that sum."""
    gradients = _gradients(module, uses, batch)
    parameters = dict(module.named_parameters())
    wrong = []
    for name, missing in batch_gradient(module, batch)[1].items():
        scale = missing.norm()
        for row in range(len(batch.ids)):
            gradient = gradients.of(name, slice(row, row + 1))[0]
            missing -= gradient
            # The gradients of a trained model nearly cancel, so their sum is no scale of rounding.
            scale += gradient.norm()
        if missing.norm() > TOLERANCE[parameters[name].dtype] * scale:
            wrong.append(name)
    if wrong:
        raise InfluenceError(
            f"the gradients of {listed(wrong)} in a batch do not add up to autograd's: the model "
            f"uses {'it' if len(wrong) == 1 else 'them'} outside the layer too. {ADVICE}"
        )
