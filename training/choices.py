"""The names that settings of a training may have, where they are more than a few."""

from __future__ import annotations

from typing import Literal

Schedule = Literal[
    "cosine",
    "linear",
    "constant",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
]
"""Schedules of transformers that need no measurement of the run."""

Optimiser = Literal[
    "adamw_torch_fused",
    "adamw_torch",
    "adafactor",
    "adagrad",
    "rmsprop",
    "sgd",
    "adamw_bnb_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "ademamix",
    "ademamix_8bit",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
]
"""Optimisers of transformers that are part of torch, of transformers, or of bitsandbytes."""


TooLong = Literal["drop", "cut"]
"""Examples longer than the limit are left out, or cut off."""
