"""Scores the model in memory on benchmarks, with lm-eval as a library.

A suite is a folder of lm-eval task files under `suites/`; it needs no network. All other tasks are
named as in lm-eval's installed registry, and download their data from the hub once. HFLM, lm-eval's
model class, wraps the live module where it is, so no loading is needed after a change of weights.

This file and harness_tasks.py are the package's only doors to lm_eval.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation import harness_tasks
from evaluation.benchmark_scores import Score, scores_of
from evaluation.cpu_products import CpuProducts
from evaluation.errors import DataError, TaskError
from evaluation.harness_progress import KINDS, Progress, RequestCounter, counter

if TYPE_CHECKING:
    from torch import nn

FEWSHOT_SEED = 1234
"""lm-eval's own default. With another seed, few-shot prompts and so scores would differ from those
of lm-eval's command line.
"""


def suites() -> dict[str, Path]:
    """Returns the suites that ship with this package: name -> folder of task files.

    The name of a suite is also the name of its group in lm-eval.
    """
    return harness_tasks.suites()


def suite_tasks(suite: str) -> list[str]:
    """Returns the names of the tasks of a suite, sorted."""
    return harness_tasks.suite_tasks(suite)


def check(suite_or_tasks: str | Sequence[str]) -> None:
    """Checks that benchmark tasks can be run, before the caller loads a model for them.

    `run` checks the same. Offline, this takes 2 s where loading the data would fail after 37 s.

    Args:
        suite_or_tasks: as `run` takes it.

    Raises:
        TaskError: a name is unknown, a task runs code that the model wrote, or its data is neither
            on this disk nor on a hub that can be reached.
    """
    with _quiet():
        harness_tasks.check(_names(suite_or_tasks))


def run(
    module: nn.Module,
    tokenizer: Any,
    suite_or_tasks: str | Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    include: Sequence[str | Path] = (),
) -> list[Score]:
    """Scores a module on benchmark tasks. The same weights give the same scores every time.

    Args:
        module: a transformers causal language model; it is only read.
        tokenizer: the tokenizer of the model.
        suite_or_tasks: names of suites, tasks or groups: a sequence, or one string with commas.
        limit: use only the first `limit` examples of each task; None uses all.
        batch_size: requests that go through the model together.
        progress: see `Progress`.
        should_stop: asked at least once per request.
        include: folders of the user's own task files. Files that run code are refused. The page
            never sets this.

    Returns:
        The metrics of each task in lm-eval's order, then the groups.

    Raises:
        TaskError: a name is unknown, a task runs code that the model wrote, or the data of a task
            is not available.
        DataError: the model's context is too short for a task.
        Stopped: `should_stop` returned True.
    """
    if limit is not None and limit < 1:
        raise TaskError(f"limit is {limit}; expected at least 1 example per task, or None for all.")
    start = time.perf_counter()
    # A context variable, because two runs may go on in two threads of the page's server.
    token = counter.set(RequestCounter(progress, should_stop))
    try:
        with _quiet():
            library = _library()
            selection = harness_tasks.load(_names(suite_or_tasks), include)
            # `evaluate` does not do what simple_evaluate does before it: 0 shots if a task names no
            # number, and the few-shot seed.
            for task in selection["tasks"].values():
                harness_tasks.refuse_loaded(task)
                if task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=0)
                task.set_fewshot_seed(seed=FEWSHOT_SEED)
            counter.get().expect(selection["tasks"].values(), limit)
            model = _wrap(library, module, tokenizer, batch_size)
            # Not simple_evaluate: it also runs `pip list` to describe the environment, which took
            # 0.5 of 0.6 s for 400 requests to a model of 4.8 million parameters (lm-eval 0.4.13).
            # bootstrap_iters=1 asks for standard errors; the function `analytic` in `_library`
            # computes them without resampling.
            with CpuProducts():
                report = library.evaluate(
                    model, selection, limit=limit, bootstrap_iters=1, log_samples=False
                )
    except AssertionError as error:
        # HFLM checks the length of the context by assert.
        if "maximum sequence length" not in str(error):
            raise
        raise DataError(f"the model's context is too short for this task: {error}") from None
    finally:
        counter.reset(token)
    return scores_of(report, selection, time.perf_counter() - start)


def _names(suite_or_tasks: str | Sequence[str]) -> list[str]:
    """Returns the names of suites and tasks without spaces and repetitions.

    Raises:
        TaskError: no name is left.
    """
    parts = suite_or_tasks.split(",") if isinstance(suite_or_tasks, str) else suite_or_tasks
    names = list(dict.fromkeys(name.strip() for name in parts if name.strip()))
    if not names:
        raise TaskError(
            f"no task was named. Give a suite ({', '.join(harness_tasks.suites())}) "
            "or tasks such as gsm8k,openbookqa."
        )
    return names


def _wrap(library: Any, module: nn.Module, tokenizer: Any, batch_size: int) -> Any:
    """Returns HFLM around the module, and keeps HFLM from changing the module or the tokenizer."""
    # HFLM sets a missing padding token, and would set it on the caller's tokenizer.
    if tokenizer.pad_token_id is None:
        tokenizer = copy.deepcopy(tokenizer)
    # HFLM ties the weights anew, which would join a head and an embedding that were loaded with
    # different values.
    object.__setattr__(module, "tie_weights", lambda *_, **__: None)
    try:
        return library.models.huggingface.HFLM(
            pretrained=module, tokenizer=tokenizer, batch_size=batch_size
        )
    finally:
        object.__delattr__(module, "tie_weights")


@cache
def _library() -> Any:
    """Imports lm_eval and sends its progress bars to the `counter` of the run that opens them.

    The import takes 2 s, once per process.
    """
    import lm_eval
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.evaluator_utils
    import lm_eval.models.huggingface
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        """A progress bar that draws nothing and reports to the run's counter.

        Each bar counts requests of its own kind, so several may be open at once, or none.
        """

        def __init__(
            self, iterable: Any = None, desc: str | None = None, total: int | None = None, **_: Any
        ) -> None:
            super().__init__(iterable, disable=True)
            request = (desc or "").removeprefix("Running ").removesuffix(" requests")
            self.kind = KINDS.get(request, "preparing")
            if request in KINDS and total is not None:
                counter.get().begin(self.kind, total)

        def __iter__(self) -> Iterator[Any]:
            for item in self.iterable:
                yield item
                self.update()

        def update(self, n: float | None = 1) -> bool | None:
            counter.get().step(self.kind, int(n or 0))
            return None

    def analytic(metric: Any, bootstrap_iters: int) -> Any:
        """Returns the function for a metric's standard error if the metric is a mean, else None.

        For other metrics lm-eval bootstraps: it forks worker processes and prints, which must not
        happen in the middle of a server.
        """
        return {lm_eval.api.metrics.mean: lm_eval.api.metrics.mean_stderr}.get(metric)

    # These modules imported the names themselves, so the names are replaced in each of them.
    for user in (lm_eval.models.huggingface, lm_eval.api.model, lm_eval.api.task):
        user.tqdm = Bar
    lm_eval.evaluator_utils.stderr_for_metric = analytic
    return lm_eval


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences lm_eval, datasets and transformers inside the block, except for errors.

    Their bars are off too: `progress` reports instead.
    """
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    bars_were_on = not are_progress_bars_disabled()
    disable_progress_bars()
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars_were_on:
            enable_progress_bars()
