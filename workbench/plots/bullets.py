"""The data of the bullet chart: which share of each expert's gain a composition recovers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class LossLike(Protocol):
    """A loss with those of its examples; evaluation.loss.Loss is one."""

    @property
    def value(self) -> float: ...  # noqa: D102
    @property
    def stderr(self) -> float: ...  # noqa: D102
    @property
    def n(self) -> int: ...  # noqa: D102
    @property
    def sums(self) -> tuple[float, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class Gain:
    """One row of the bullet chart: a composition between the base (0) and the expert (1)."""

    dataset: str
    loss: float
    """Of the composition, in nats per supervised token."""
    stderr: float
    """Standard error of `loss`."""
    n: int
    """Number of examples."""
    base: float
    """Loss of the base."""
    expert: float | None
    """Loss of the dataset's own expert; None if it is not known."""
    share: float | None
    """Share of the expert's gain that the composition recovers.

    None if no expert is known, or if the expert is no better than the base.
    """
    share_stderr: float | None
    """Standard error of `share`; None if the losses of single examples are not known."""


def gain(dataset: str, here: LossLike, base: LossLike, expert: LossLike | None) -> Gain:
    """Returns the share of an expert's gain that a composition recovers on a dataset.

        share = (base - composition) / (base - expert)

    Worked example: base 1.0, expert 0.2, composition 0.4 gives (1.0 - 0.4) / (1.0 - 0.2) = 75 %.

    The standard error compares the three models example by example, because an example that is hard
    for one of them is hard for all: the share is a ratio of two sums over the examples, of which
    evaluation.loss.ratio gives the error.

    Args:
        dataset: name of the dataset.
        here: loss of the composition.
        base: loss of the base, on the same examples.
        expert: loss of the dataset's own expert, on the same examples; None if not known.
    """
    # An expert that is no better than the base, but for rounding, leaves no axis to draw on.
    width = base.value - expert.value if expert is not None else 0.0
    share = (base.value - here.value) / width if width > 1e-9 else None
    error = None
    if share is not None and expert is not None and here.sums and base.sums and expert.sums:
        error = _ratio_error(here.sums, base.sums, expert.sums)
    # A model that overflows has a loss that is infinite or NaN, and no bar can show that.
    return Gain(
        dataset,
        here.value,
        here.stderr,
        here.n,
        base.value,
        expert.value if expert is not None else None,
        share if share is not None and math.isfinite(share) else None,
        error,
    )


def _ratio_error(here: Sequence[float], base: Sequence[float], expert: Sequence[float]) -> float:
    """Returns the standard error of Σ (base - here) / Σ (base - expert)."""
    import torch

    from evaluation.loss import ratio

    start = torch.tensor(base, dtype=torch.float64)
    gained = start - torch.tensor(here, dtype=torch.float64)
    possible = start - torch.tensor(expert, dtype=torch.float64)
    return ratio(gained, possible)[1]


def gains(
    here: Mapping[str, LossLike], base: Mapping[str, LossLike], experts: Mapping[str, LossLike]
) -> list[Gain]:
    """Returns the rows of the bullet chart for the datasets whose base loss is known.

    Args:
        here: dataset -> loss of the composition, in the order of the rows.
        base: dataset -> loss of the base.
        experts: dataset -> loss of its expert.
    """
    return [
        gain(name, loss, base[name], experts.get(name))
        for name, loss in here.items()
        if name in base
    ]
