"""Which expert helps which example: the derivative of each example's loss along each vector.

    s_ej = ⟨∇ℓ_e, Δ_j⟩        cos_ej = s_ej / (‖∇ℓ_e‖ ‖Δ_j‖)

ℓ_e is the mean-token loss of example e at the weights that the module holds. A negative number
means that more of vector j lowers this loss: s_ej is ∂ℓ_e/∂ω_j of the composition Θ + Σ ω_j Δ_j, by
the chain rule. The cosine is that of LESS (arXiv 2402.04333, equation 3) with the vector in the
place of a training example's step, and the opposite sign.

Gradients and vectors are compared over all tensors that some vector changes. So each example has
one ‖∇ℓ_e‖, and its cosines differ by the vectors only.

The gradients come from influence.gradients.per_example, which shares one backward pass among the
examples of a batch; where it cannot see a parameter, from a backward pass for each example. Forward
mode (torch.autograd.forward_ad) needs a pass for each vector and gives no norm of a gradient. For
five vectors and 200 examples of the demo it took three times as long as a pass for each example.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluation.fisher import requiring_gradients
from evaluation.landscape.slope_paths import SlopePaths
from influence.errors import InfluenceError, InfluenceStopped
from influence.gradients.examples import Examples
from influence.gradients.one_by_one import one_by_one
from influence.gradients.per_example import ExampleGradients, per_example
from merging.inputs.lora_vector import LoraVector
from merging.inputs.vector import Vector
from merging.live.live_model import View, region
from plumbing.suggest import listed

WIDE = 2**24
"""Elements of the gradients that are held at once, if one example's has no more."""
PIECE = 2**20
"""Elements of a delta that are read at once."""
TERMS = 2**15
"""Terms that a product sums in the gradients' own dtype; these sums are added up in float64."""


class ExampleTable(NamedTuple):
    """What each of some examples gains or loses along each vector."""

    vectors: tuple[str, ...]
    slopes: Tensor
    """(examples, vectors) float64: ⟨∇ℓ_e, Δ_j⟩, in nats per supervised token and unit of ω."""
    norms: Tensor
    """(examples,) float64: ‖∇ℓ_e‖ over the tensors that some vector changes."""
    lengths: Tensor
    """(vectors,) float64: ‖Δ_j‖."""
    losses: Tensor
    """(examples,) float64: ℓ_e, in nats per supervised token."""
    tokens: Tensor
    """(examples,) float64: the number of supervised tokens of each example."""

    @property
    def cosines(self) -> Tensor:
        """(examples, vectors) float64: cos(∇ℓ_e, Δ_j); NaN where a gradient is zero."""
        return self.slopes / (self.norms[:, None] * self.lengths)


def example_table(
    paths: SlopePaths,
    examples: Examples,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ExampleTable:
    """Computes the table of some examples, in the order of `Examples.records`.

    Each batch is computed once for all vectors. Besides a batch's activations, gradients of a few
    examples for one parameter are in memory. A delta is read piece by piece, an adapter's by its
    factors, once for each batch: larger batches (read_examples(batch_tokens=2048)) save time.

    Args:
        paths: the module and its vectors. The module may hold any weights of its architecture.
        examples: what `read_examples` made with this model's tokenizer.
        progress: called with the examples done and the examples in all.
        should_stop: asked after each batch.

    Raises:
        InfluenceError: there is no vector, or one is zero; an example does not fit the model.
        InfluenceStopped: `should_stop` returned True.
    """
    lengths, regions = _regions(paths)
    count = len(examples.records)
    slopes = torch.zeros(count, len(paths.vectors), dtype=torch.float64)
    squares, losses = torch.zeros(2, count, dtype=torch.float64)
    module = paths.module
    trained = dict(module.named_parameters())
    done = 0
    with requiring_gradients([trained[name] for name in regions]):
        for batch in _gradients(module, examples):
            losses[batch.numbers] = batch.losses.to("cpu", torch.float64)
            for name, tensors in regions.items():
                step = max(1, WIDE // trained[name].numel())
                for start in range(0, len(batch.numbers), step):
                    rows = batch.numbers[start : start + step]
                    gradients = batch.of(name, slice(start, start + step))
                    for tensor, part in _parts(gradients, tensors):
                        norms = torch.linalg.vector_norm(part.flatten(1), dim=1)
                        squares[rows] += norms.double().square().cpu()
                        slopes[rows] += _products(part, tensor, paths.vectors).cpu()
            done += len(batch.numbers)
            progress(done, count)
            if should_stop():
                raise InfluenceStopped(f"stopped after {done} of {count} examples")
    names = tuple(vector.name for vector in paths.vectors)
    tokens = torch.tensor(examples.tokens, dtype=torch.float64)
    return ExampleTable(names, slopes, squares.sqrt(), lengths, losses, tokens)


def _regions(paths: SlopePaths) -> tuple[Tensor, dict[str, list[tuple[str, View]]]]:
    """Returns the lengths of the vectors, and what they change.

    Returns:
        (vectors,) float64; and parameter, by the module's first name for it -> the tensors of the
        files that lie in it and that some vector changes.

    Raises:
        InfluenceError: there is no vector, or one is zero.
    """
    if not paths.vectors:
        raise InfluenceError("there are no vectors. Give at least one fine-tuned checkpoint.")
    squares = [vector.squared_lengths for vector in paths.vectors]
    totals = [sum(each.get(name, 0.0) for name in paths.tensors) for each in squares]
    if zero := [each.name for each, total in zip(paths.vectors, totals, strict=True) if not total]:
        raise InfluenceError(
            f"{listed(zero)}: equal to the base in every tensor of the model, so there is no "
            "direction to go along. Leave these checkpoints out."
        )
    names = {id(value): name for name, value in paths.module.named_parameters()}
    regions = defaultdict[str, list[tuple[str, View]]](list)
    for name, view in paths.tensors.items():
        # A checkpoint has every tensor, also those that its training left as they were.
        if any(each.get(name) for each in squares):
            regions[names[id(paths.parameter(view.parameter))]].append((name, view))
    return torch.tensor(totals, dtype=torch.float64).sqrt(), dict(regions)


def _gradients(module: nn.Module, examples: Examples) -> Iterator[ExampleGradients]:
    """Yields the gradients of each batch, or of each example where a batch hides some.

    Raises:
        InfluenceError: an example does not fit the model.
    """
    batches = per_example(module, examples)
    try:
        first = next(batches)
    except InfluenceError:
        # What else may be wrong, such as an example that is too long, the other way refuses too.
        return one_by_one(module, examples)
    return chain([first], batches)


def _parts(gradients: Tensor, tensors: Sequence[tuple[str, View]]) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of the files that lie in a parameter, and their part of its gradients.

    Args:
        gradients: (rows, *shape of the parameter).
        tensors: names of tensors, and where they lie in the parameter.
    """
    for name, view in tensors:
        index = ((0, len(gradients)), *view.index)
        yield name, region(gradients, View(view.parameter, index, view.transposed))


def _products(gradients: Tensor, name: str, vectors: Sequence[Vector]) -> Tensor:
    """Returns ⟨gradient, Δ_j⟩ for one tensor: (rows, vectors) float64.

    Args:
        gradients: (rows, *shape of the tensor).
        name: the tensor.
        vectors: those that do not change it give 0.
    """
    rows = len(gradients)
    sums = gradients.new_zeros(rows, len(vectors), dtype=torch.float64)
    dense = []
    for column, vector in enumerate(vectors):
        if isinstance(vector, LoraVector) and name in vector:
            # ⟨G, s·B·A⟩ = s·Σ (BᵀG) ∘ A, so the product of the factors is not computed.
            factors = vector.factors(name)
            left, right = factors.left.to(gradients), factors.right.to(gradients)
            products = (left.T @ gradients.reshape(rows, len(left), -1)) * right
            sums[:, column] = factors.scale * products.flatten(1).sum(1, dtype=torch.float64)
        elif name in vector:
            dense.append(column)
    flat = gradients.reshape(rows, -1)
    for start in range(0, flat.shape[1] if dense else 0, PIECE):
        piece = flat[:, start : start + PIECE]
        stop = start + piece.shape[1]
        deltas = torch.stack([vectors[column].block(name, start, stop) for column in dense])
        for terms in zip(
            torch.split(piece, TERMS, 1), torch.split(deltas.to(piece), TERMS, 1), strict=True
        ):
            sums[:, dense] += (terms[0] @ terms[1].T).double()
    return sums
