"""Computes logits only where a supervised token is predicted.

The logits of a position are as many numbers as the vocabulary has tokens, often 100 times its
hidden state. Of a chat only the assistant's tokens are supervised, so most logits would be made
for a loss that ignores them.
"""

from __future__ import annotations

import inspect
from typing import Any

IGNORED = -100
"""The label of a position that is not supervised."""


def selects_logits(model: Any) -> bool:
    """Returns whether a model computes chosen logits, and a loss from labels already shifted.

    Args:
        model: a model of transformers, without an adapter around it.
    """
    from transformers.loss.loss_utils import ForCausalLMLoss

    return (
        "logits_to_keep" in inspect.signature(model.forward).parameters
        and getattr(model, "loss_function", None) is ForCausalLMLoss
    )


def supervised_only(batch: dict[str, Any]) -> dict[str, Any]:
    """Adds to a batch which logits its loss needs, and the label of each.

    >>> supervised_only({"labels": torch.tensor([[-100, -100, 7, 8]])})["logits_to_keep"]
    tensor([1, 2])

    Args:
        batch: `labels`, int64 of shape (rows, tokens), and whatever else the model takes.

    Returns:
        The batch with `logits_to_keep`, (columns,) int64: the positions at which some row predicts
        a supervised token; and `shift_labels`, (rows, columns) int64: the token that comes after
        each. If no token is supervised, the batch as it was.
    """
    following = batch["labels"][:, 1:]
    columns = (following != IGNORED).any(dim=0).nonzero().flatten()
    if not len(columns):
        return batch
    return batch | {"logits_to_keep": columns, "shift_labels": following[:, columns].contiguous()}
