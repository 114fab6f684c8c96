"""The names that settings of a training may have, where they are more than a few."""

from __future__ import annotations

from typing import Literal, get_args

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

OF_BITSANDBYTES = tuple(
    name
    for name in get_args(Optimiser)
    if any(part in name for part in ("bnb", "paged", "lion", "ademamix"))
)
"""Optimisers that are in the package bitsandbytes."""

BaseDtype = Literal["auto", "float32", "bfloat16", "nf4"]
"""How the weights below an adapter are held; nf4 has 4 bits."""

Tracker = Literal["tensorboard", "trackio", "wandb"]
"""Programs that show the curves of trainings; each is the name of its package too."""

TooLong = Literal["drop", "cut"]
"""Examples longer than the limit are left out, or cut off."""
