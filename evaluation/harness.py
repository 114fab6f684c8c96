"""Benchmark scores of the model in memory: the only door to lm_eval.

A suite is a folder of lm-eval task files under `suites/`; it needs no network. Other tasks go by their name in the
installed registry, and fetch their data from the hub once. lm-eval is used as a library: HFLM is put around the live
module, which is scored where it is, so changing a weight and scoring again costs no loading.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evaluation import harness_tasks
from evaluation.errors import DataError, Stopped, TaskError

if TYPE_CHECKING:
    from torch import nn

FEWSHOT_SEED = 1234
"""lm-eval's own default: with another, few-shot prompts and scores would differ from its command line."""

Progress = Callable[[int, int, str], None]
"""Called with requests done, requests in all (an estimate at first) and what is being asked."""


class Score(NamedTuple):
    """One number of one task or group."""

    task: str
    metric: str
    """lm-eval's name, followed by its filter where that is not "none"; "mean" is the mean over a group's tasks."""
    value: float
    """Usually a share from 0 to 1; NaN where lm-eval gives none."""
    stderr: float
    """Standard error of `value`; NaN for a single example and for metrics that are no means."""
    n: int
    """Examples."""
    seconds: float
    """Wall time of the whole run that this score is part of: lm-eval mixes the requests of all tasks."""
    group: bool = False
    """Whether it is of a group, so that its examples are those of other rows."""


def suites() -> dict[str, Path]:
    """The suites that ship with us: name of the folder, which is also the name of its group, to its path."""
    return harness_tasks.suites()


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
    """Score a module, and give the same numbers for the same weights every time.

    Args:
        module: a transformers causal language model; it is only read.
        tokenizer: its tokenizer.
        suite_or_tasks: names of suites, tasks or groups; one name, several with commas, or a sequence.
        limit: the first so many examples of each task.
        batch_size: requests that go through the model together.
        progress: see `Progress`.
        should_stop: asked at least once per request.
        include: further folders of task files of the user's own; never taken from the page. Files that run code are refused.

    Returns:
        per task its metrics in lm-eval's order, then the groups.

    Raises:
        TaskError: an unknown name, a task that runs code the model wrote, data that cannot be had.
        DataError: the model's context is too short for a task.
        Stopped: `should_stop` said so.
    """
    if limit is not None and limit < 1:
        raise TaskError(f"limit is {limit}; expected at least 1 example per task, or None for all.")
    start = time.perf_counter()
    token = _watch.set(_Watch(progress, should_stop))
    try:
        with _quiet():
            library = _library()
            found = harness_tasks.load(_names(suite_or_tasks), include)
            for task in found["tasks"].values():
                harness_tasks.refuse_loaded(task)
                if task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=0)
                task.set_fewshot_seed(seed=FEWSHOT_SEED)
            _watch.get().expect(found["tasks"].values(), limit)
            model = _wrap(library, module, tokenizer, batch_size)
            # bootstrap_iters=1 asks for standard errors; _analytic then gives them without resampling.
            report = library.evaluate(
                model, found, limit=limit, bootstrap_iters=1, log_samples=False
            )
    except AssertionError as error:  # HFLM checks the generation length by assert
        if "maximum sequence length" not in str(error):
            raise
        raise DataError(f"the model's context is too short for this task: {error}") from None
    finally:
        _watch.reset(token)
    return _scores(report, found, time.perf_counter() - start)


def _names(suite_or_tasks: str | Sequence[str]) -> list[str]:
    several = suite_or_tasks.split(",") if isinstance(suite_or_tasks, str) else suite_or_tasks
    names = list(dict.fromkeys(name.strip() for name in several if name.strip()))
    if not names:
        raise TaskError(
            f"no task was named. Give a suite ({', '.join(harness_tasks.suites())}) or tasks such as gsm8k,openbookqa."
        )
    return names


def _wrap(library: Any, module: nn.Module, tokenizer: Any, batch_size: int) -> Any:
    """HFLM around the module, without letting it change module or tokenizer."""
    if tokenizer.pad_token_id is None:  # HFLM would set one on the caller's tokenizer
        tokenizer = copy.deepcopy(tokenizer)
    # HFLM ties weights anew, which would join a head and an embedding that were loaded with different values.
    object.__setattr__(module, "tie_weights", lambda *_, **__: None)
    try:
        return library.models.huggingface.HFLM(
            pretrained=module, tokenizer=tokenizer, batch_size=batch_size
        )
    finally:
        object.__delattr__(module, "tie_weights")


def _scores(report: Mapping[str, Any], found: Mapping[str, Any], seconds: float) -> list[Score]:
    scores, first = [], {}
    results = report["results"]
    for name in found["tasks"]:
        mine = list(_metrics(name, results[name], int(results[name]["sample_len"]), seconds))
        if mine:
            first[name] = mine[0]
        scores += mine
    for name, group in found["groups"].items():
        members = [task.task_name for task in group.get_all_tasks()]
        counted = results[name].get("sample_count", {})
        everything = sum(results[member]["sample_len"] for member in members)
        complete = {key for key, count in counted.items() if count == everything}
        if complete:
            only = {
                key: value
                for key, value in results[name].items()
                if key.replace("_stderr", "") in complete
            }
            scores += (
                score._replace(group=True) for score in _metrics(name, only, everything, seconds)
            )
        elif set(members) <= set(first):
            scores.append(_mean(name, [first[member] for member in members], seconds))
    return scores


def _metrics(task: str, result: Mapping[str, Any], n: int, seconds: float) -> Iterator[Score]:
    for key, value in result.items():
        metric, comma, kind = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            error = result.get(f"{metric}_stderr,{kind}")
            stderr = float(error) if isinstance(error, int | float) else math.nan
            yield Score(
                task,
                metric if kind == "none" else f"{metric},{kind}",
                float(value),
                stderr,
                n,
                seconds,
            )


def _mean(group: str, members: list[Score], seconds: float) -> Score:
    """The unweighted mean over tasks; its error follows from the independence of their examples."""
    value = math.fsum(score.value for score in members) / len(members)
    stderr = math.sqrt(math.fsum(score.stderr**2 for score in members)) / len(members)
    return Score(
        group, "mean", value, stderr, sum(score.n for score in members), seconds, group=True
    )


class _Watch:
    """Counts the requests of one run, over lm-eval's several bars, and stops it when asked."""

    def __init__(
        self, progress: Progress | None = None, should_stop: Callable[[], bool] | None = None
    ) -> None:
        self.progress, self.should_stop = progress, should_stop
        self.expected: dict[str, int] = {}
        self.done: dict[str, int] = {}

    def expect(self, loaded: Iterable[Any], limit: int | None) -> None:
        """Estimate the requests per kind: one per example, or one per choice of the first example."""
        for task in loaded:
            docs = task.eval_docs
            count = min(len(docs), limit or len(docs))
            choices = task.OUTPUT_TYPE == "multiple_choice"
            kind = _KINDS["loglikelihood" if choices else task.OUTPUT_TYPE]
            each = (
                len(task.doc_to_choice(docs[0]))
                if choices and task.config.doc_to_choice is not None
                else 1
            )
            self.expected[kind] = self.expected.get(kind, 0) + count * each

    def begin(self, kind: str, total: int) -> None:
        """A bar opens and tells how many requests of a kind there really are."""
        self.expected[kind], self.done[kind] = total, 0
        self.step(kind, 0)

    def step(self, kind: str, count: int) -> None:
        """Some requests were answered."""
        if self.should_stop is not None and self.should_stop():
            raise Stopped(f"stopped while {kind}")
        if kind in self.done:
            self.done[kind] += count
            if self.progress is not None:
                self.progress(sum(self.done.values()), sum(self.expected.values()), kind)


_KINDS = {
    "loglikelihood": "scoring choices",
    "loglikelihood_rolling": "scoring texts",
    "generate_until": "writing answers",
}
_watch: ContextVar[_Watch] = ContextVar("_watch", default=_Watch())  # noqa: B039  (the default is never changed)


@cache
def _library() -> Any:
    """lm_eval with its bars led to the run that opened them. Costs 2 s the first time."""
    import lm_eval
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.evaluator_utils
    import lm_eval.models.huggingface
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        """Draws nothing, tells the run. What opens several at once, or none, does no harm: each counts its own kind."""

        def __init__(
            self, iterable: Any = None, desc: str | None = None, total: int | None = None, **_: Any
        ) -> None:
            super().__init__(iterable, disable=True)
            said = (desc or "").removeprefix("Running ").removesuffix(" requests")
            self.kind = _KINDS.get(said, "preparing")
            if said in _KINDS and total is not None:
                _watch.get().begin(self.kind, total)

        def __iter__(self) -> Iterator[Any]:
            for item in self.iterable:
                yield item
                self.update()

        def update(self, n: float | None = 1) -> bool | None:
            _watch.get().step(self.kind, int(n or 0))
            return None

    def analytic(metric: Any, bootstrap_iters: int) -> Any:
        """Standard errors of means only: for other metrics lm-eval forks workers and prints, in the middle of a server."""
        known = {lm_eval.api.metrics.mean: lm_eval.api.metrics.mean_stderr}
        return known.get(metric)

    for user in (lm_eval.models.huggingface, lm_eval.api.model, lm_eval.api.task):
        user.tqdm = Bar
    lm_eval.evaluator_utils.stderr_for_metric = analytic
    return lm_eval


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm_eval, datasets and transformers below their errors and without bars: `progress` is the report here."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    drawn = not are_progress_bars_disabled()
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
        if drawn:
            enable_progress_bars()
