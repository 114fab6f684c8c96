"""Decides after each step of a run whether to log, measure, save or stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

from training.errors import TrainingError
from training.run.context import Hooks, RunContext
from training.run.cost import Spent
from training.run.record import curve_point

LOG_EVERY, LOGS = 25, 40
"""Largest number of steps between two points of the curve, and lowest number of points (about)."""


class StepCallback(TrainerCallback):  # type: ignore[misc]
    """Decides after each step whether to log, measure, save or stop, and counts the tokens.

    Args:
        run: the run's stage, data, order of examples and saved states.
        hooks: the caller's functions for points of the curve and for stopping.
        spent: returns the cost so far of all processes together; every process calls it.
        agree: returns whether any process passed True; every process calls it, and all get the
            same answer.

    Attributes:
        seconds: time spent in steps since tokens per second were last logged.
        counted: number of tokens of those steps.
        stopped: whether `hooks.should_stop` ended the run.
    """

    def __init__(
        self,
        run: RunContext,
        hooks: Hooks,
        spent: Callable[[], Spent],
        agree: Callable[[bool], bool],
    ) -> None:
        self.run, self.hooks, self._spent, self._agree = run, hooks, spent, agree
        self.seconds, self.counted, self.stopped, self._begun = 0.0, 0, False, 0.0
        self._batches = len(run.order.rows) // run.order.steps
        self._log_every = max(1, min(LOG_EVERY, run.order.steps // LOGS))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the clock of tokens per second."""
        self._begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decides whether to measure, log, save and stop after this step."""
        self.seconds += time.perf_counter() - self._begun
        self._count(state.global_step)
        stage, step = self.run.stage, state.global_step
        last = step == self.run.order.steps
        # All processes must stop at the same step: one that stopped alone would leave the others
        # waiting for its gradients. The last step ends the run anyway, so nobody is asked.
        self.stopped = not last and self._agree(self.hooks.should_stop())
        # After this method transformers 5 logs, evaluates and saves, in this order. So a saved
        # state already names the best weights of its own step. The last step saves no state,
        # because the checkpoint follows.
        control.should_training_stop = last or self.stopped
        control.should_save = not last and (self.stopped or step % stage.save_every == 0)
        due = stage.evaluate_every is not None and step % stage.evaluate_every == 0
        control.should_evaluate = bool(stage.validation) and (last or due)
        # A resumed Trainer starts its sum of losses at 0, so the sum is logged before every save.
        # The curve then misses no step.
        control.should_log = step == 1 or step % self._log_every == 0 or last or control.should_save

    def tokens_per_second(self) -> float | None:
        """Returns the tokens per second since the last call; None if no step was done since."""
        rate = round(self.counted / self.seconds, 1) if self.seconds else None
        if rate is not None:
            self.seconds, self.counted = 0.0, 0
        return rate

    def _count(self, step: int) -> None:
        """Adds the examples and tokens of a step, of all processes, to the run's meter."""
        run = self.run
        # Counted from the order, because a process sees only its own batches.
        rows = run.order.rows[(step - 1) * self._batches : step * self._batches]
        examples = [run.data.all[index] for batch in rows for index in batch]
        tokens = sum(len(example.ids) for example in examples)
        run.meter.examples += len(examples)
        run.meter.tokens += tokens
        run.meter.supervised += sum(example.learned for example in examples)
        self.counted += tokens

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Marks the saved state as complete once every process has written its part."""
        spent = self._spent()  # waits for all processes
        if args.should_save:
            self.run.state.seal(state.global_step, state.best_global_step, spent)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        """Passes a new point of the curve to the caller.

        Raises:
            TrainingError: the loss is infinite or not a number.
        """
        point = curve_point(logs or {}, state.global_step)
        if point is None:
            return
        # transformers sets should_save in the main process only.
        if args.should_save:
            self.hooks.on_point(point, self.run.order.steps)
        # After the caller got the point, so that the curve ends with the loss that ended the run.
        if point.loss is not None and not math.isfinite(point.loss):
            raise TrainingError(
                f"the training loss is {point.loss} at step {point.step}: the training diverged. "
                f"Give a lower rate than {self.run.stage.rate:g}, or a longer warm-up."
            )
