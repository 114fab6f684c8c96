"""Projected gradients of records at the checkpoints of a warm-up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corpus import Record
from influence.errors import InfluenceStopped
from influence.gradients.adam_direction import Kind, direction
from influence.gradients.domain_means import trained_parameters
from influence.gradients.examples import read_examples
from influence.gradients.moments import Moments, read_moments
from influence.gradients.per_example import per_example
from influence.projection.projector import Projection, Projector
from training.run.base import open_base
from training.run.epochs import EPOCHS, FACTS, OPTIMISER
from training.run.lora import add_adapter, set_adapter
from workbench.errors import SessionError
from workbench.influence_runs.study import Study


class WarmEpoch(NamedTuple):
    """A checkpoint of a warm-up, at the end of a pass."""

    number: int
    """From 1."""
    folder: Path
    mean_rate: float
    """Mean learning rate of the pass."""

    def digest(self, kind: Kind) -> str:
        """Returns what identifies the gradients of one kind: weights, and Adam's averages."""
        files = ["adapter_model.safetensors", *([OPTIMISER] if kind.startswith("adam") else [])]
        sha = hashlib.sha256()
        for name in files:
            with (self.folder / name).open("rb") as file:
                sha.update(hashlib.file_digest(file, "sha256").digest())
        return sha.hexdigest()


def warm_epochs(study: Study) -> list[WarmEpoch]:
    """Returns the checkpoints of a study's warm-up, the first pass first.

    Raises:
        SessionError: the warm-up is not finished.
    """
    folders = sorted((study.trained / EPOCHS).glob("*"), key=lambda folder: int(folder.name))
    if not folders:
        raise SessionError(
            f"{study.folder}: the warm-up is not finished. Run dem influence warmup once more; it "
            "goes on where it was."
        )
    return [
        WarmEpoch(
            int(folder.name),
            folder,
            json.loads((folder / FACTS).read_text("utf-8"))["mean_rate"],
        )
        for folder in folders
    ]


class WarmModel:
    """The base of a study with the adapter of its warm-up, at one checkpoint after the other.

    Args:
        study: a study whose warm-up is finished.
        device: torch's name of the device that the gradients are computed on.

    Attributes:
        tokenizer: of the base.
        module: the model, at the checkpoint of the last call of `at`.
    """

    def __init__(self, study: Study, device: str = "cpu") -> None:
        base = open_base(Path(study.base))
        self.tokenizer: Any = base.tokenizer
        self.module = base.load()
        add_adapter(self.module, study.warm_up.lora)
        self.module.to(device).eval()

    def at(self, epoch: WarmEpoch, kind: Kind) -> GradientRows:
        """Returns the gradients at a checkpoint; those of an earlier call are no longer valid."""
        set_adapter(self.module, epoch.folder)
        self.module.eval()
        moments = {}
        if kind.startswith("adam"):
            moments = read_moments(epoch.folder, trained_parameters(self.module)).moments
        return GradientRows(self.module, self.tokenizer, kind, moments)


class GradientRows(NamedTuple):
    """Computes the projected gradients of records at one checkpoint."""

    module: Any
    tokenizer: Any
    kind: Kind
    moments: dict[str, Moments]

    def of(
        self,
        records: Sequence[Record],
        projection: Projection,
        *,
        batch_tokens: int = 2048,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Tensor:
        """Returns the projected gradient of each record, (records, d) float32 on the CPU.

        A chat may become several examples, one for each answer; its row is the mean of theirs.

        Args:
            records: each has a token to learn within the model's context.
            projection: how gradients become d numbers.
            batch_tokens: the most positions of a batch, with padding.
            should_stop: asked before each batch.

        Raises:
            InfluenceError: a record cannot be used; it is named by its line.
            InfluenceStopped: `should_stop` returned True.
        """
        examples = read_examples(records, self.tokenizer, batch_tokens=batch_tokens)
        owners = torch.tensor(examples.records)
        rows = torch.zeros(len(records), projection.dimension)
        for batch in per_example(self.module, examples):
            if should_stop():
                raise InfluenceStopped("stopped; what was stored is kept")
            projector = Projector(projection)
            for name in batch.names:
                gradients = batch.of(name)
                projector.add(name, direction(gradients, self.moments.get(name), self.kind))
            rows.index_add_(0, owners[batch.numbers], projector.result().cpu())
        counts = torch.bincount(owners, minlength=len(records))
        return rows / counts[:, None]
