"""Lora: the settings of an adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.errors import TrainingError


@dataclass(frozen=True)
class Lora:
    """Settings of a LoRA adapter (Hu et al., 2021, arXiv 2106.09685).

    Each weight W of the targets becomes W + scale · B·A, and only A and B are trained.

    Attributes:
        rank: inner size of B·A, 1 or more.
        alpha: numerator of the scale, which is alpha / rank, or alpha / √rank with `rslora`;
            twice the rank if None.
        dropout: share of the inputs of each target that its adapter ignores in a step, at least 0
            and below 1.
        targets: endings of the names of the modules that get an adapter; every linear layer
            except the output layer if empty.
        rslora: whether to use the rank-stabilised scale (Kalajdzievski, 2023, arXiv 2312.03732).

    Raises:
        TrainingError: rank, alpha or dropout is out of its range.
    """

    rank: int
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    rslora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise TrainingError(
                f"the rank of a LoRA adapter is {self.rank}; expected 1 or more, for example 16."
            )
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise TrainingError(
                f"alpha of a LoRA adapter is {self.alpha}; expected a number above 0, or None."
            )
        if not 0 <= self.dropout < 1:
            raise TrainingError(
                f"dropout of a LoRA adapter is {self.dropout}; expected at least 0 and below 1."
            )
