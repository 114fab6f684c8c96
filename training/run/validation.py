"""The loss on validation datasets while a model trains: mean over supervised tokens, so however the batches are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from corpus.tokens import Encoded
from training.batching.order import collate


def validation_losses(
    model: Any, sets: Mapping[str, Sequence[Encoded]], pad: int, budget: int, accelerator: Any
) -> dict[str, float]:
    """By dataset, nats per supervised token; every process computes its share, and all get the same answer.

    The trainer's own evaluation takes the mean over batches, which depends on how they were cut. No random number is
    drawn: a training gives the same bits with validation and without.

    Args:
        model: as the trainer wrapped it; its mode is as before afterwards.
        sets: the examples by dataset.
        pad: token to pad with.
        budget: most positions of a batch, padding included; one example may exceed it.
        accelerator: the trainer's.
    """
    number, processes = accelerator.process_index, accelerator.num_processes
    found = {}
    was_training = model.training
    model.eval()
    for name, rows in sets.items():
        cut = by_length(rows, budget)
        sums = torch.zeros(2, dtype=torch.float64)
        for begin in range(0, len(cut), processes):
            mine = begin + number
            # With FSDP a forward pass is a common act, so a process that has no batch left computes one that does not count
            loss, tokens = batch_loss(
                model, cut[mine if mine < len(cut) else begin], pad, accelerator.device
            )
            if mine < len(cut):
                sums += torch.tensor([loss * tokens, tokens], dtype=torch.float64)
        total = accelerator.reduce(sums.to(accelerator.device), "sum") if processes > 1 else sums
        found[name] = float(total[0] / total[1])
    model.train(was_training)
    return found


def by_length(rows: Sequence[Encoded], budget: int) -> list[list[Encoded]]:
    """Batches of similar length of at most `budget` positions with padding, or of one row; the longest first."""
    left = sorted(rows, key=lambda row: -len(row.ids))
    cut = []
    while left:
        size = max(1, budget // len(left[0].ids))
        cut.append(left[:size])
        left = left[size:]
    return cut


@torch.no_grad()
def batch_loss(model: Any, rows: list[Encoded], pad: int, device: Any) -> tuple[float, int]:
    """Mean loss over the supervised tokens of a batch, and how many there are."""
    inputs = {name: tensor.to(device) for name, tensor in collate(rows, pad).items()}
    tokens = int((inputs["labels"][:, 1:] != -100).sum())
    return float(model(**inputs, use_cache=False).loss), tokens
