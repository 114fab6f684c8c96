"""Keeps a checkpoint at the end of every epoch, with the optimiser's averages by parameter name.

    <out>/epochs/1/     what the run would have written after its first pass
          epochs/1/optimiser.safetensors    exp_avg/<parameter>, exp_avg_sq/<parameter>, …
          epochs/1/epoch.json               steps, mean learning rate, betas, ε

LESS (arXiv 2402.04333) weights the gradients of each epoch by its mean learning rate, and divides
by these averages. Until the run is finished, the folders are epoch-<number> beside its states.
Their weights are float32, whatever `save_dtype` says, because the gradients are taken at them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from transformers import TrainerCallback

from training.run.lora import tidy_adapter
from training.run.rights import give_usual_rights
from training.run.saved_state import State, write_json

if TYPE_CHECKING:
    from training.run.trainer import StageTrainer

OPTIMISER, FACTS = "optimiser.safetensors", "epoch.json"
"""Files of the folder of an epoch, beside the checkpoint."""

EPOCHS = "epochs"
"""Folder of a finished run that holds a folder for each epoch."""


class EpochCallback(TrainerCallback):  # type: ignore[misc]
    """Writes the folder of each epoch when its last update is done.

    Args:
        trainer: the trainer of the run.
        tokenizer: the tokenizer of the base.
        ends: the last update of each epoch, counted from 1.
        use_cache: what the configuration of a written model says about the cache.
    """

    def __init__(
        self, trainer: StageTrainer, tokenizer: Any, ends: Sequence[int], use_cache: Any
    ) -> None:
        self._trainer, self._tokenizer = trainer, tokenizer
        self._ends, self._use_cache = list(ends), use_cache

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Writes the epoch that this step ends, if it ends one."""
        if state.global_step in self._ends:
            self._keep(self._ends.index(state.global_step) + 1)

    def _keep(self, number: int) -> None:
        """Writes a folder in the main process, while the others wait."""
        trainer = self._trainer
        # Gathered by all processes: with FSDP each of them holds a part.
        averages: Any = get_optimizer_state_dict(
            trainer.model_wrapped,
            trainer.optimizer.optimizer,
            options=StateDictOptions(full_state_dict=True, cpu_offload=True),
        )
        weights = trainer.trained_weights() if trainer.is_fsdp_enabled else None
        if trainer.args.should_save:
            folder = trainer.run.state.epoch(number)
            staged = folder.with_name(folder.name + ".partial")
            shutil.rmtree(staged, ignore_errors=True)
            write_model(trainer, self._tokenizer, staged, weights, self._use_cache)
            save_file(_by_name(averages["state"]), staged / OPTIMISER)
            write_json(staged / FACTS, self._facts(number, averages["param_groups"][0]))
            give_usual_rights(staged)
            # Left by a run that was stopped after this epoch and continues from before it.
            shutil.rmtree(folder, ignore_errors=True)
            staged.rename(folder)
        trainer.accelerator.wait_for_everyone()

    def _facts(self, number: int, group: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the content of epoch.json."""
        begin, end = [0, *self._ends][number - 1 : number + 1]
        schedule = self._trainer.lr_scheduler
        # The schedule is asked, because a resumed run has not seen the earlier rates.
        rates = [
            schedule.base_lrs[0] * schedule.lr_lambdas[0](update) for update in range(begin, end)
        ]
        stage = self._trainer.run.stage
        return {
            "epoch": number,
            "updates": [begin + 1, end],
            "mean_rate": math.fsum(rates) / len(rates),
            "optimiser": stage.optimiser,
            "betas": list(group["betas"]) if "betas" in group else None,
            "eps": group.get("eps"),
            "decay": stage.decay,
        }


def _by_name(state: Mapping[str, Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Returns an optimiser's tensors as <kind>/<parameter>; `step` is an int32 of one element."""
    return {
        f"{kind}/{name}": torch.tensor([int(value)], dtype=torch.int32)
        if kind == "step"
        else value.contiguous()
        for name, kinds in state.items()
        for kind, value in kinds.items()
        if isinstance(value, torch.Tensor)
    }


def write_model(
    trainer: StageTrainer,
    tokenizer: Any,
    folder: Path,
    weights: Mapping[str, torch.Tensor] | None,
    use_cache: Any,
) -> None:
    """Writes the checkpoint or the adapter that is being trained; called by the main process.

    Args:
        trainer: the trainer.
        tokenizer: the tokenizer of the base.
        folder: the folder to make.
        weights: the weights to write; those of the model if None.
        use_cache: what its configuration says about the cache. The trainer turned it off; saved
            like that, the model would generate without it and compute every earlier token again.
    """
    stage, model = trainer.run.stage, trainer.accelerator.unwrap_model(trainer.model)
    training, model.config.use_cache = model.config.use_cache, use_cache
    model.save_pretrained(folder, state_dict=weights)
    model.config.use_cache = training
    tokenizer.save_pretrained(folder)
    if stage.lora is not None:
        tidy_adapter(folder, stage.base_name or stage.base.as_posix())


def move_epochs(state: State, folder: Path) -> None:
    """Moves the folders of all epochs from the states of a run into its finished folder."""
    for epoch in state.folder.glob("epoch-*"):
        if not epoch.name.endswith(".partial"):
            (folder / EPOCHS).mkdir(exist_ok=True)
            epoch.rename(folder / EPOCHS / epoch.name.removeprefix("epoch-"))
