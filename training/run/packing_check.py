"""Checks that a model keeps examples apart that are packed into one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from corpus.tokens import Encoded
from training.batching.order import collate
from training.batching.packing import pack
from training.errors import TrainingError

LENGTH = 16
"""Number of tokens of each of the two examples that are tried."""

TOLERANCE = 0.02
"""Largest difference of a logit, as a share of the largest logit, that counts as rounding."""


def check_packing(model: Any, rows: Sequence[Encoded]) -> None:
    """Refuses to pack for a model in which an example would depend on the one before it.

    Attention keeps packed examples apart by their positions. Layers with a state that runs through
    the row, such as those of Mamba, may not.

    Args:
        model: the model; it is as before afterwards.
        rows: the encoded examples; two short pieces are tried.

    Raises:
        TrainingError: the model mixes the two, or does not take positions.
    """
    import torch

    pieces = [_shortened(row) for row in (rows[0], rows[-1])]
    mode = model.training
    model.eval()
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            packed = model(
                **{name: value.to(device) for name, value in pack(pieces).items()}, use_cache=False
            ).logits[0]
            alone = collate(pieces[1:], 0)
            inputs = {name: value.to(device) for name, value in alone.items()}
            expected = model(**inputs, use_cache=False).logits[0]
    except TypeError as error:
        raise TrainingError(f"{_refusal(model)}: {error}. {_ADVICE}") from None
    finally:
        model.train(mode)
    found = packed[-len(expected) :]
    if float((found - expected).abs().max()) > TOLERANCE * float(expected.abs().max()):
        raise TrainingError(
            f"{_refusal(model)}: an example would depend on the one before it. {_ADVICE}"
        )


_ADVICE = "Leave packing out; order: by_length pads less, too."


def _refusal(model: Any) -> str:
    return f"{model.config.model_type} models cannot be trained with packing"


def _shortened(row: Encoded) -> Encoded:
    return replace(row, ids=row.ids[:LENGTH], supervised=row.supervised[:LENGTH])
