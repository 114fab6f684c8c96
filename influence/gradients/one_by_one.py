"""The gradient of each example's loss by a pass of its own: the reference, and the slow way.

It sees every parameter of every model, so it is also the way out where
influence.gradients.per_example refuses one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from torch import Tensor, nn

from evaluation.prepared import parts
from influence.gradients.domain_means import batch_gradient, check_model
from influence.gradients.examples import Examples, numbers
from influence.gradients.per_example import ExampleGradients


def one_by_one(module: nn.Module, examples: Examples) -> Iterator[ExampleGradients]:
    """Yields the gradients of each example, the longest first; all parameters are in memory.

    Args:
        module: a causal language model of transformers in evaluation mode, on any device.
        examples: what `read_examples` made with this model's tokenizer.

    Raises:
        InfluenceError: the model is in training mode or trains nothing; an example does not fit it.
    """
    check_model(module)
    examples.check(module)
    for batch in examples.batches:
        for alone in parts(batch, 1):
            losses, gradients = batch_gradient(module, alone)
            yield ExampleGradients(
                numbers(alone), losses, tuple(gradients), partial(_rows, gradients)
            )


def _rows(gradients: Mapping[str, Tensor], name: str, rows: slice) -> Tensor:
    return gradients[name][None][rows]
