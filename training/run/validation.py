"""Measures loss and accuracy on validation sets during a training, as means over supervised tokens.

So they do not depend on how the batches are cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from corpus.tokens import Encoded
from training.batching.order import collate


class Scores(NamedTuple):
    """What was measured on a validation set."""

    loss: float
    """Nats per supervised token."""
    accuracy: float
    """Share of the supervised tokens that were the likeliest ones, 0 to 1."""


def validation_scores(
    model: Any, sets: Mapping[str, Sequence[Encoded]], pad: int, budget: int, accelerator: Any
) -> dict[str, Scores]:
    """Returns the scores on each validation set. Every process computes a share of the batches.

    transformers' own evaluation takes the mean over batches, which depends on how they are cut. No
    random number is drawn, so a training gives the same bits with and without validation.

    Args:
        model: the model as the trainer wrapped it. It is set to evaluation mode, and set back
            afterwards.
        sets: name of a dataset -> its examples.
        pad: token to pad with.
        budget: largest number of positions of a batch, padding included. A single example may
            exceed it.
        accelerator: the trainer's accelerator.

    Returns:
        Name of a dataset -> its scores; the same in every process.
    """
    number, processes = accelerator.process_index, accelerator.num_processes
    scores = {}
    was_training = model.training
    model.eval()
    for name, rows in sets.items():
        batches = cut_by_length(rows, budget)
        sums = torch.zeros(3, dtype=torch.float64)
        for begin in range(0, len(batches), processes):
            own = begin + number
            # With FSDP every process takes part in each forward pass. So a process without a batch
            # of its own computes another one, which does not count.
            loss, tokens, right = score_batch(
                model, batches[own if own < len(batches) else begin], pad, accelerator.device
            )
            if own < len(batches):
                sums += torch.tensor([loss * tokens, right, tokens], dtype=torch.float64)
        total = accelerator.reduce(sums.to(accelerator.device), "sum") if processes > 1 else sums
        scores[name] = Scores(float(total[0] / total[2]), float(total[1] / total[2]))
    model.train(was_training)
    return scores


def cut_by_length(rows: Sequence[Encoded], budget: int) -> list[list[Encoded]]:
    """Cuts rows into batches of similar length, the longest first.

    A batch has at most `budget` positions, padding included, or a single row.
    """
    left = sorted(rows, key=lambda row: -len(row.ids))
    batches = []
    while left:
        size = max(1, budget // len(left[0].ids))
        batches.append(left[:size])
        left = left[size:]
    return batches


@torch.no_grad()
def score_batch(model: Any, rows: list[Encoded], pad: int, device: Any) -> tuple[float, int, int]:
    """Returns the mean loss over a batch's supervised tokens, their number, and how many are right.

    Args:
        model: a causal language model of transformers.
        rows: the examples of the batch.
        pad: token to pad with.
        device: device of the model.
    """
    inputs = {name: tensor.to(device) for name, tensor in collate(rows, pad).items()}
    # The first position is never predicted, so its label does not count.
    wanted = inputs["labels"][:, 1:]
    output = model(**inputs, use_cache=False)
    right = int((output.logits[:, :-1].argmax(-1) == wanted).sum())
    return float(output.loss), int((wanted != -100).sum()), right
