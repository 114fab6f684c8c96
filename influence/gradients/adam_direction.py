"""Γ: the direction that AdamW would step in if an example were its next batch.

LESS (arXiv 2402.04333, section 3.1): with m, v the averages after t − 1 updates and g the gradient
of the example,

    m̂ = (β1 m + (1 − β1) g) / (1 − β1^t)
    v̂ = (β2 v + (1 − β2) g²) / (1 − β2^t)
    Γ = m̂ / (√v̂ + ε)

so that a step without weight decay is θ ← θ − rate · Γ. This is what torch's AdamW computes.
LESS's released code (commit 8abf962) corrects no bias, has ε inside the root, and fixes β1, β2, ε:

    Γ = (0.9 m + 0.1 g) / √(0.999 v + 0.001 g² + 1e-8)

Worked example: β = (0.9, 0.99), ε = 0, m = v = 0, t = 1 and g = 3 give m̂ = 3, v̂ = 9, Γ = 1.

On LoRA the diagonal of Adam is disputed (GIST, arXiv 2602.18584), hence the other kinds.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor

from influence.errors import InfluenceError
from influence.gradients.moments import Moments
from plumbing.suggest import nearest

Kind = Literal["adam", "sgd", "sign", "adam-less-repo"]
"""adam: Γ as torch's AdamW steps. sgd: the gradient itself. sign: its signs, −1, 0 or 1.
adam-less-repo: Γ as LESS's released code computes it."""

REPO_BETAS, REPO_EPS = (0.9, 0.999), 1e-8
"""What LESS's released code fixes, whatever the optimiser had."""


def direction(gradients: Tensor, moments: Moments | None, kind: Kind = "adam") -> Tensor:
    """Returns the direction of each example for one parameter, (examples, *shape).

    Args:
        gradients: of the examples, (examples, *shape), float32 or float64; they are kept.
        moments: of the parameter; not needed for "sgd" and "sign".
        kind: see Kind.

    Raises:
        InfluenceError: the kind is unknown, or needs moments and there are none.
    """
    if kind not in get_args(Kind):
        raise InfluenceError(f"the direction {kind!r} is unknown; {nearest(kind, get_args(Kind))}")
    if kind == "sgd":
        return gradients
    if kind == "sign":
        return gradients.sign()
    if moments is None:
        raise InfluenceError(
            f"the direction {kind!r} needs the optimiser's averages. "
            "Give the checkpoint of an epoch, or take kind='sgd'."
        )
    beta1, beta2 = moments.betas if kind == "adam" else REPO_BETAS
    first = (moments.first * beta1).add(gradients, alpha=1 - beta1)
    second = (moments.second * beta2).addcmul(gradients, gradients, value=1 - beta2)
    if kind == "adam-less-repo":
        return first.div_(second.add_(REPO_EPS).sqrt_())
    t = moments.steps + 1
    # In the order of torch's own step, so that the rounding is the same.
    root = second.sqrt_().div_(math.sqrt(1 - beta2**t)).add_(moments.eps)
    return first.div_(root).div_(1 - beta1**t)
