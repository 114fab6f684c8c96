"""StageTrainer: transformers' Trainer with a stage's batches, validation and saved states."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from training.batching.order import FixedBatches, collate
from training.batching.packing import pack, pack_rows
from training.batching.supervised import selects_logits, supervised_only
from training.errors import TrainingError
from training.run.callback import StepCallback
from training.run.context import Hooks, RunContext
from training.run.cost import Spent
from training.run.validation import validation_scores

WEIGHTS = "trained.safetensors"
"""File of a saved state that holds the trained weights, by the names of the module's parameters.

save_pretrained writes other names for some model families, and the Trainer's own way of loading
would silently leave these out.
"""


class StageTrainer(Trainer):  # type: ignore[misc]
    """The trainer of one run.

    It takes the batches of the stage's own order, measures each validation set, and saves states
    that count only once they are complete.

    Args:
        run: the run's stage, data, order of examples and saved states.
        hooks: the caller's functions for points of the curve and for stopping.
        model: the model in float32, with everything frozen that is not trained.
        settings: transformers' settings, made from the stage.
    """

    control: Any

    def __init__(
        self, run: RunContext, hooks: Hooks, model: Any, settings: TrainingArguments
    ) -> None:
        self.run = run
        self.steps = StepCallback(run, hooks, self._spent_by_all, self._any_process)
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        # The kernels of liger never make the logits at all.
        self._selects = not run.stage.liger and selects_logits(bare)
        super().__init__(
            model=model, args=settings, train_dataset=run.data.all, callbacks=[self.steps]
        )
        # `progress` reports the training; this callback would write to stdout as well.
        self.remove_callback(PrinterCallback)

    @property
    def stopped(self) -> bool:
        """Whether should_stop ended the run."""
        return self.steps.stopped

    def get_train_dataloader(self) -> Any:
        """Returns a loader of the stage's batches, which deals them to the processes in turn."""
        rows = FixedBatches(self.run.order.rows, self.run.stage.batch)
        data: Any = self.run.data.all
        make: Callable[..., dict[str, Any]] = partial(collate, pad=self.run.pad)
        if self.run.stage.packing:
            # FlashAttention takes a single row, and costs nothing for what it may not see.
            flash = self.run.stage.attention == "flash_attention_2"
            make = pack if flash else partial(pack_rows, pad=self.run.pad)
        loader: Any = DataLoader(data, batch_sampler=rows, collate_fn=make)
        return self.accelerator.prepare(loader)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Computes the loss of a batch; see training.batching.supervised."""
        batch = supervised_only(inputs) if self._selects else inputs
        return super().compute_loss(model, batch, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs, and adds tokens per second to a training loss."""
        if "loss" in logs and (rate := self.steps.tokens_per_second()) is not None:
            logs["tokens_per_second"] = rate
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measures each validation set, and keeps the weights if the mean of the losses is lowest.

        Returns:
            Name of a validation set -> nats per supervised token.
        """
        run = self.run
        # As many positions as the largest training batch has, so that validation needs less memory.
        budget = run.stage.batch * max(len(row.ids) for row in run.data.all)
        # The wrapped model, because with FSDP the bare one holds only a part of each weight.
        scores = validation_scores(
            self.model_wrapped, run.data.validation, run.pad, budget, self.accelerator
        )
        losses = {name: score.loss for name, score in scores.items()}
        mean = sum(losses.values()) / len(losses)
        self.log(
            {f"validation/{name}": loss for name, loss in losses.items()}
            | {f"accuracy/{name}": score.accuracy for name, score in scores.items()}
            | {"validation": mean}
        )
        best = self.state.best_metric
        # These two fields are part of a saved state, so a resumed run still knows its best step.
        if run.stage.keep == "best" and (best is None or mean < best):
            self.keep_best()
            self.state.best_metric = mean
            self.state.best_global_step = self.state.global_step
        if run.stage.patience is not None and run.stage.evaluate_every is not None:
            waited = self.state.global_step - (self.state.best_global_step or 0)
            if waited >= run.stage.patience * run.stage.evaluate_every:
                self.control.should_training_stop = True
                # The run is finished, whatever else was asked for at this step. A state of this
                # step would continue.
                self.control.should_save = self.steps.stopped = False
        # The Trainer's own `evaluate`, which this one replaces, calls the callbacks too.
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, losses
        )
        return losses

    def keep_best(self) -> None:
        """Writes the weights of this step beside the states.

        They count only once a saved state names them as the best.
        """
        folder = self.run.state.best(self.state.global_step)
        weights = self.trained_weights()
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            save_file(weights, folder / WEIGHTS)
        self.accelerator.wait_for_everyone()

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """Returns copies of the trained weights on the CPU.

        With FSDP these are all weights, and only the main process gets them.
        """
        if self.is_fsdp_enabled:
            # Called by every process, because each of them holds a part of the weights.
            gathered: dict[str, torch.Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
            return gathered
        return {
            name: parameter.detach().to("cpu").contiguous()
            for name, parameter in self._trained().items()
        }

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        """Returns the parameters that are trained, by name."""
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def set_weights(self, folder: Path) -> None:
        """Copies the weights of a saved state into the model.

        Raises:
            TrainingError: the state holds other parameters than this run trains.
        """
        saved, trained = load_file(folder / WEIGHTS), self._trained()
        if saved.keys() != trained.keys():
            raise TrainingError(
                f"{folder}: holds {len(saved)} weights, and this run trains {len(trained)}; "
                f"their names differ. Remove {folder.parent} to start anew."
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(saved[name])

    def final_weights(self, best_step: int | None) -> dict[str, torch.Tensor] | None:
        """Returns the weights to write, or None if the model itself holds them.

        With FSDP each process holds only a part of the model, so the weights are returned.
        Otherwise the best weights are copied into the model.

        Args:
            best_step: step of the best weights; None for the weights of the last step.
        """
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
        """Writes the trained weights into a saved state; `finetune` writes the checkpoint."""
        if self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(exist_ok=True)
            save_file(self.trained_weights(), folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # The Trainer's own method loads files of save_pretrained; see WEIGHTS for why these are
        # not used here.
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.set_weights(Path(resume_from_checkpoint))

    def spent(self) -> Spent:
        """Returns the cost of the run so far, of all processes together.

        Every process has to call this, because the processes exchange their numbers.
        """
        now = self.run.meter.read()
        if self.args.world_size > 1:
            # float64 holds every number of bytes exactly; float32 only up to 16 MiB.
            own = torch.tensor(
                [[now.device_seconds, now.peak_bytes]], dtype=torch.float64, device=self.args.device
            )
            seconds, peaks = self.accelerator.gather(own).unbind(1)
            now = Spent(
                **{
                    **vars(now),
                    "device_seconds": float(seconds.sum()),
                    "peak_bytes": int(peaks.max()),
                }
            )
        return self.run.before + now

    def _spent_by_all(self) -> Spent:
        """Waits for every process and returns `spent`."""
        self.accelerator.wait_for_everyone()
        return self.spent()

    def _any_process(self, own: bool) -> bool:
        """Returns whether any process passed True; every process calls this method."""
        if self.args.world_size == 1:
            return own
        flag = torch.tensor([own], dtype=torch.int32, device=self.args.device)
        return bool(self.accelerator.reduce(flag, "sum").item())
