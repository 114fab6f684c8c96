"""transformers' Trainer with the stage's own batches, validation per dataset, and states that count only when whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from training.batching.order import Fixed, collate
from training.errors import TrainingError
from training.run.callback import StepCallback
from training.run.context import Hooks, RunContext
from training.run.cost import Spent
from training.run.validation import validation_losses

WEIGHTS = "trained.safetensors"
"""In a saved state: the weights that are trained, by the module's own names. Files of save_pretrained have other names for
some families, which the trainer's own way back would leave out in silence."""


class StageTrainer(Trainer):  # type: ignore[misc]
    """The trainer of one run."""

    control: Any

    def __init__(
        self, run: RunContext, hooks: Hooks, model: Any, settings: TrainingArguments
    ) -> None:
        self.run = run
        self.steps = StepCallback(run, hooks, self._spent_by_all, self._any)
        super().__init__(
            model=model, args=settings, train_dataset=run.data.all, callbacks=[self.steps]
        )
        self.remove_callback(
            PrinterCallback
        )  # `progress` is the report; the printer would write to stdout

    @property
    def stopped(self) -> bool:
        """Whether should_stop ended the run."""
        return self.steps.stopped

    def get_train_dataloader(self) -> Any:
        """The stage's batches, dealt to the processes in turn."""
        rows = Fixed(self.run.order.rows, self.run.stage.batch)
        data: Any = self.run.data.all
        loader: Any = DataLoader(
            data, batch_sampler=rows, collate_fn=lambda items: collate(items, self.run.pad)
        )
        return self.accelerator.prepare(loader)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds tokens per second to a training loss."""
        if "loss" in logs and (rate := self.steps.tokens_per_second()) is not None:
            logs["tokens_per_second"] = rate
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss on each validation dataset, and their mean; the weights are kept aside where that is the lowest so far."""
        run = self.run
        budget = run.stage.batch * max(len(row.ids) for row in run.data.all)
        losses = validation_losses(
            self.model_wrapped, run.data.validation, run.pad, budget, self.accelerator
        )
        mean = sum(losses.values()) / len(losses)
        self.log(
            {f"validation/{name}": loss for name, loss in losses.items()} | {"validation": mean}
        )
        best = self.state.best_metric
        if run.stage.keep == "best" and (best is None or mean < best):
            self.keep_best()
            self.state.best_metric = mean
            self.state.best_global_step = self.state.global_step
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, losses
        )
        return losses

    def keep_best(self) -> None:
        """Writes the weights of this step beside the states; they count once a state names them."""
        folder = self.run.state.best(self.state.global_step)
        weights = self.trained_weights()
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            save_file(weights, folder / WEIGHTS)
        self.accelerator.wait_for_everyone()

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """Copies of what is trained, on the CPU; with FSDP of all weights, and on the main process only."""
        if self.is_fsdp_enabled:
            gathered: dict[str, torch.Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
            return gathered
        return {
            name: parameter.detach().to("cpu").contiguous()
            for name, parameter in self._trained().items()
        }

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def set_weights(self, folder: Path) -> None:
        """Writes the weights of a saved state into the model.

        Raises:
            TrainingError: they are not those that this run trains.
        """
        saved, mine = load_file(folder / WEIGHTS), self._trained()
        if saved.keys() != mine.keys():
            raise TrainingError(
                f"{folder}: holds {len(saved)} weights, and this run trains {len(mine)}, not all of them the same. "
                f"Remove {folder.parent} to start anew."
            )
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(saved[name])

    def final(self, best_step: int | None) -> dict[str, torch.Tensor] | None:
        """The weights to write, where the model itself does not hold them whole; the best are put into the model else."""
        if self.is_fsdp_enabled:
            return (
                self.trained_weights()
                if best_step is None
                else load_file(self.run.state.best(best_step) / WEIGHTS)
            )
        if best_step is not None:
            self.set_weights(self.run.state.best(best_step))
        return None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What is trained, for a saved state. The checkpoint itself is written when the run is done."""
        if self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(exist_ok=True)
            save_file(self.trained_weights(), folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.set_weights(Path(resume_from_checkpoint))

    def spent(self) -> Spent:
        """What the run has cost so far, all processes together; every process has to ask."""
        now = self.run.meter.read()
        if self.args.world_size > 1:
            mine = torch.tensor(
                [[now.device_seconds, now.peak_bytes]], dtype=torch.float64, device=self.args.device
            )
            seconds, peaks = self.accelerator.gather(mine).unbind(1)
            now = Spent(
                **{
                    **vars(now),
                    "device_seconds": float(seconds.sum()),
                    "peak_bytes": int(peaks.max()),
                }
            )
        return self.run.before + now

    def _spent_by_all(self) -> Spent:
        """`spent`, after every process has come this far."""
        self.accelerator.wait_for_everyone()
        return self.spent()

    def _any(self, mine: bool) -> bool:
        """Whether any process says so; every process calls this, and all get the same answer."""
        if self.args.world_size == 1:
            return mine
        flag = torch.tensor([mine], dtype=torch.int32, device=self.args.device)
        return bool(self.accelerator.reduce(flag, "sum").item())
