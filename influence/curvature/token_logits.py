"""The logits of a batch's supervised tokens, and how many tokens share an example's mean."""

import inspect

import torch
from torch import Tensor, nn

from evaluation.loss import batch_logits
from evaluation.prepared import Batch
from influence.curvature.layer_passes import wide_dtype


def token_logits(module: nn.Module, batch: Batch) -> Tensor:
    """Returns (tokens, vocabulary) with their graph, float32, or float64 if the model is."""
    selects = "logits_to_keep" in inspect.signature(module.forward).parameters
    logits, positions = batch_logits(module, batch, selects, None)
    return logits[batch.rows.to(logits.device), positions].to(wide_dtype(module))


def tokens_of(batch: Batch) -> Tensor:
    """Returns, for each supervised token, how many its example has: (tokens,) int64."""
    return torch.bincount(batch.rows)[batch.rows]
