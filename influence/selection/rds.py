"""Scores by hidden states: RDS+, the cosine of position-weighted means of the last layer.

RDS+ (arXiv 2503.01807; position weights of SGPT, arXiv 2202.08904) needs one forward pass over the
pool and one over the validation examples, and no training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evaluation.hidden_states import layer_states
from evaluation.prepared import vocabulary_size
from influence.errors import InfluenceError, InfluenceStopped
from influence.selection.example_set import ExampleSet
from influence.selection.score_matrix import ScoreMatrix, score_matrix


def rds_scores(
    module: nn.Module,
    pool: ExampleSet,
    targets: ExampleSet,
    *,
    batch_tokens: int = 512,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] | None = None,
) -> ScoreMatrix:
    """Scores each example of the pool for each validation example by RDS+.

    Args:
        module: a causal language model of transformers, in evaluation mode, on any device.
        pool: encoded with this model's tokenizer.
        targets: encoded with this model's tokenizer.
        batch_tokens: the most tokens of a batch; a single example may exceed it. On an accelerator
            give 16384.
        progress: called with the examples that are read and the examples in all, N + V.
        should_stop: asked before each batch.

    Returns:
        (N, V), cosines.

    Raises:
        InfluenceError: a token is not in the model's vocabulary, or the scores of an example are
            not finite or all 0.
        InfluenceStopped: `should_stop` returned True.
    """
    total = len(pool) + len(targets)

    def vectors(examples: ExampleSet, before: int) -> NDArray[np.float32]:
        return rds_vectors(
            module,
            examples,
            batch_tokens=batch_tokens,
            progress=lambda done, _: progress(before + done, total),
            should_stop=should_stop,
        )

    rows, others = vectors(pool, 0), vectors(targets, len(pool))
    return score_matrix("RDS+", rows @ others.T, pool, targets.names)


def rds_vectors(
    module: nn.Module,
    examples: ExampleSet,
    *,
    batch_tokens: int = 512,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] | None = None,
) -> NDArray[np.float32]:
    """Computes the vector of RDS+ of each example, scaled to length 1.

    It is Σ i·h_i / Σ i over all L tokens of prompt and response, the end token included, with i
    from 1 to L and h_i the state of the last layer after the final norm: later tokens, which have
    seen more, weigh more. Of a chat with an example for each answer, the last one is taken, which
    holds the whole chat. The mean is taken in float32.

    Args:
        module: as in rds_scores.
        examples: N examples.
        batch_tokens: as in rds_scores.
        progress: called with the examples that are read and N.
        should_stop: as in rds_scores.

    Returns:
        (N, d), d being the model's hidden size. A mean of zeros stays zeros.

    Raises:
        InfluenceError: a token is not in the model's vocabulary.
        InfluenceStopped: `should_stop` returned True.
    """
    ids = [each.encoded[-1].ids for each in examples.examples]
    _check_vocabulary(module, ids)
    vectors: NDArray[np.float32] | None = None
    done = 0
    for batch in _equal_length_batches([len(row) for row in ids], batch_tokens):
        if should_stop is not None and should_stop():
            raise InfluenceStopped("RDS+ was stopped before all examples were read.")
        tokens = torch.from_numpy(np.stack([ids[row] for row in batch]).astype(np.int64))
        states = layer_states(module, tokens)[-1].float()
        weights = torch.arange(1, states.shape[1] + 1, dtype=torch.float32, device=states.device)
        means = torch.einsum("l,eld->ed", weights / weights.sum(), states).cpu().numpy()
        # The size d of a state is known only now: not every configuration names it.
        vectors = np.empty((len(ids), means.shape[1]), np.float32) if vectors is None else vectors
        vectors[batch] = means
        done += len(batch)
        progress(done, len(ids))
    assert vectors is not None  # encode_examples refuses sets without examples
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def _equal_length_batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yields the numbers of examples of one length, longest first, so that nothing is padded."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    for length, group in groupby(order, key=lambda number: lengths[number]):
        numbers = list(group)
        size = max(1, batch_tokens // length)
        for at in range(0, len(numbers), size):
            yield numbers[at : at + size]


def _check_vocabulary(module: nn.Module, ids: list[NDArray[np.int32]]) -> None:
    """Refuses unknown tokens before the model runs: on an accelerator they break the process."""
    largest, size = max(int(row.max()) for row in ids), vocabulary_size(module)
    if largest >= size:
        raise InfluenceError(
            f"token {largest} occurs in the data, the model knows {size} tokens. "
            "Encode the examples with the tokenizer of this model."
        )
