"""What happens between the steps of a run: points of the curve, validation, saved states, an early end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from training.errors import TrainingError
from training.facts import seen

if TYPE_CHECKING:
    from training.trainer import Hooks, StageTrainer

LOG_EVERY, LOGS = 25, 40
"""At most so many steps between two points of the curve, and at least about so many points."""


class Watch(TrainerCallback):  # type: ignore[misc]
    """When to log, measure, save and stop; what was seen; and that a saved state is whole."""

    def __init__(self, trainer: StageTrainer, hooks: Hooks) -> None:
        self.trainer, self.hooks, self.stopped, self._begun = trainer, hooks, False, 0.0
        run = trainer.run
        self._batches = len(run.order.rows) // run.order.steps
        self._log_every = max(1, min(LOG_EVERY, run.order.steps // LOGS))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The clock of tokens per second runs."""
        self._begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decides what follows this step."""
        self.trainer.seconds += time.perf_counter() - self._begun
        self._count(state.global_step)
        stage, step = self.trainer.run.stage, state.global_step
        last = step == self.trainer.run.order.steps
        self.stopped = not last and self._stop()
        control.should_training_stop = last or self.stopped
        control.should_save = not last and (self.stopped or step % stage.save_every == 0)
        due = stage.evaluate_every is not None and step % stage.evaluate_every == 0
        control.should_evaluate = bool(stage.validation) and (last or due)
        control.should_log = step == 1 or step % self._log_every == 0 or last or control.should_save

    def _stop(self) -> bool:
        """One answer for all processes: each has to leave at the same step."""
        said = self.hooks.should_stop()
        if self.trainer.args.world_size == 1:
            return said
        flag = torch.tensor([said], dtype=torch.int32, device=self.trainer.args.device)
        return bool(self.trainer.accelerator.reduce(flag, "sum").item())

    def _count(self, step: int) -> None:
        run = self.trainer.run
        rows = run.order.rows[(step - 1) * self._batches : step * self._batches]
        seen = [run.data.all[index] for batch in rows for index in batch]
        tokens = sum(len(example.ids) for example in seen)
        run.meter.examples += len(seen)
        run.meter.tokens += tokens
        run.meter.supervised += sum(sum(example.supervised) for example in seen)
        self.trainer.counted += tokens

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The state is written, by every process; the main one declares it whole."""
        self.trainer.accelerator.wait_for_everyone()
        spent = self.trainer.spent()
        if args.should_save:
            self.trainer.run.state.seal(state.global_step, state.best_global_step, spent)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """Hands on what was seen.

        Raises:
            TrainingError: the loss is not a number any more.
        """
        point = seen(logs or {}, state.global_step)
        if point is None:
            return
        if args.should_save:
            self.hooks.on_point(point, self.trainer.run.order.steps)
        if point.loss is not None and not math.isfinite(point.loss):
            raise TrainingError(
                f"the training loss is {point.loss} at step {point.step}: the weights have left the range of numbers. "
                f"Give a lower rate than {self.trainer.run.stage.rate:g}, or a longer warm-up."
            )
