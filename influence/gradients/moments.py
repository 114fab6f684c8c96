"""Reads the state that AdamW was in at the end of an epoch, by the names of the parameters.

training.run.epochs writes it: optimiser.safetensors holds exp_avg/<parameter>, the mean of the
gradients, exp_avg_sq/<parameter>, that of their squares, and step/<parameter>; epoch.json holds
the betas, ε and the mean learning rate of the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from influence.errors import InfluenceError
from plumbing.suggest import listed
from training.run.epochs import FACTS, OPTIMISER

FIRST, SECOND, STEP = "exp_avg", "exp_avg_sq", "step"
"""The kinds of tensors that AdamW keeps for each parameter."""

ADAMW = ("adamw_torch", "adamw_torch_fused")
"""The optimisers whose state can be read; the others keep other averages, or in 8 bits."""


class Moments(NamedTuple):
    """AdamW's state for one parameter after some updates."""

    first: Tensor
    """The running mean of the gradients, m, in the shape of the parameter; float32."""
    second: Tensor
    """The running mean of their squares, v, of the same shape; float32."""
    steps: int
    """The updates so far, t."""
    betas: tuple[float, float]
    eps: float


class EpochState(NamedTuple):
    """AdamW's state at the end of an epoch."""

    moments: dict[str, Moments]
    """Name of a trained parameter -> its moments."""
    mean_rate: float
    """The mean learning rate of the epoch, LESS's weight of this checkpoint."""
    updates: tuple[int, int]
    """The first and the last update of the epoch, counted from 1."""


def read_moments(folder: Path, parameters: Mapping[str, Tensor]) -> EpochState:
    """Reads the optimiser's state of the checkpoint of an epoch.

    Everything is checked before the first tensor is read.

    Args:
        folder: epochs/<number> of a run with keep_epochs.
        parameters: the trained parameters of the model of that checkpoint, by name; the moments
            come to their devices. See influence.gradients.domain_means.trained_parameters.

    Raises:
        InfluenceError: the folder has no state, that of another optimiser, or that of other
            parameters; or a file cannot be read.
    """
    facts = _facts(folder)
    if (optimiser := facts["optimiser"]) not in ADAMW:
        raise InfluenceError(
            f"{folder}: was trained by {optimiser}, and Adam's direction needs the averages of "
            f"{' or '.join(ADAMW)}. Train the warm-up with one of them, or take kind='sgd'."
        )
    try:
        with safe_open(folder / OPTIMISER, "pt") as file:
            _check(folder, file, parameters)
            moments = {
                name: Moments(
                    file.get_tensor(f"{FIRST}/{name}").to(parameter.device, torch.float32),
                    file.get_tensor(f"{SECOND}/{name}").to(parameter.device, torch.float32),
                    int(file.get_tensor(f"{STEP}/{name}")),
                    tuple(facts["betas"]),
                    facts["eps"],
                )
                for name, parameter in parameters.items()
            }
    except (OSError, SafetensorError) as error:
        raise InfluenceError(f"{folder / OPTIMISER}: cannot be read: {error}") from None
    return EpochState(moments, facts["mean_rate"], tuple(facts["updates"]))


def _facts(folder: Path) -> dict[str, Any]:
    """Reads epoch.json."""
    for name in (OPTIMISER, FACTS):
        if not (folder / name).is_file():
            raise InfluenceError(
                f"{folder}: has no {name}, so Adam's averages are unknown. Give a folder "
                "epochs/<number> of a run with keep_epochs: true, or take kind='sgd'."
            )
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text("utf-8"))
    except ValueError as error:
        raise InfluenceError(f"{folder / FACTS}: cannot be read: {error}") from None
    return facts


def _check(folder: Path, file: Any, parameters: Mapping[str, Tensor]) -> None:
    """Compares names and shapes with those of the model, from the file's header alone."""
    kept = set(file.keys())
    stored = {key.partition("/")[2] for key in kept}
    whole = {n for n in stored if {f"{kind}/{n}" for kind in (FIRST, SECOND, STEP)} <= kept}
    _refuse(folder, "has no moments of", parameters.keys() - whole, stored)
    _refuse(folder, "has moments of parameters that are not trained", stored - parameters.keys())
    for name, parameter in parameters.items():
        for kind in (FIRST, SECOND):
            shape = tuple(file.get_slice(f"{kind}/{name}").get_shape())
            if shape != tuple(parameter.shape):
                raise InfluenceError(
                    f"{folder / OPTIMISER}: {kind}/{name} is {shape}, the model's parameter is "
                    f"{tuple(parameter.shape)}. Open the model of this checkpoint."
                )


def _refuse(folder: Path, what: str, names: Iterable[str], stored: Iterable[str] = ()) -> None:
    """Refuses names that are in the file or in the model only."""
    if wrong := sorted(names):
        beside = f"; it has those of {listed(sorted(stored), 2)}" if stored else ""
        raise InfluenceError(
            f"{folder / OPTIMISER}: {what}: {listed(wrong)}{beside}. Open the model of this "
            "checkpoint, and train the parameters that the run trained."
        )
