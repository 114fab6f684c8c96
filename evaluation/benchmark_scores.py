"""Reads lm-eval's report of a run as a list of scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

LOWER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter")
"""The metrics of lm-eval for which lower is better."""


class Score(NamedTuple):
    """One score of one task or group."""

    task: str
    """Name of the task or group."""
    metric: str
    """lm-eval's name of the metric, then its filter if that is not "none".

    "mean" is the mean over the tasks of a group.
    """
    value: float
    """Usually a share from 0 to 1; NaN if lm-eval gives none."""
    stderr: float
    """Standard error of `value`; NaN for a single example and for metrics that are not means."""
    n: int
    """Number of examples."""
    seconds: float
    """Wall time of the whole run: lm-eval mixes the requests of all tasks, so none has its own."""
    group: bool = False
    """True for a group. Its examples are those of other rows and must not be counted again."""


def is_lower_better(metric: str) -> bool:
    """Returns whether a lower value of a metric of lm-eval is better."""
    # lm-eval appends a filter to the name of a metric, as in bits_per_byte,strict.
    return metric.partition(",")[0] in LOWER


def count_examples(scores: Sequence[Score]) -> int:
    """Returns the number of examples that a benchmark scored."""
    # A task with several metrics counts once; a group only repeats the examples of its tasks.
    return sum({score.task: score.n for score in scores if not score.group}.values())


def scores_of(
    report: Mapping[str, Any], selection: Mapping[str, Any], seconds: float
) -> list[Score]:
    """Returns the scores in lm-eval's report: those of the tasks, then one or more per group."""
    scores, first = [], {}
    results = report["results"]
    for name in selection["tasks"]:
        of_task = list(_metrics(name, results[name], int(results[name]["sample_len"]), seconds))
        if of_task:
            first[name] = of_task[0]
        scores += of_task
    for name, group in selection["groups"].items():
        members = [task.task_name for task in group.get_all_tasks()]
        examples = results[name].get("sample_count", {})
        everything = sum(results[member]["sample_len"] for member in members)
        # lm-eval aggregates a metric over the tasks that have it. Only if all of them do, the
        # number speaks for the group; else the mean of each task's first metric does.
        complete = {key for key, count in examples.items() if count == everything}
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
    """Yields the metrics in one result of lm-eval, whose keys are "metric,filter"."""
    for key, value in result.items():
        # lm-eval mixes metrics with names, counts and "N/A" for a missing standard error. Only the
        # key of a metric has a comma.
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
    """Returns the unweighted mean over the tasks of a group.

    Its standard error assumes that the tasks' examples are independent: √(Σ stderr²) / tasks.
    """
    value = math.fsum(score.value for score in members) / len(members)
    stderr = math.sqrt(math.fsum(score.stderr**2 for score in members)) / len(members)
    return Score(
        group, "mean", value, stderr, sum(score.n for score in members), seconds, group=True
    )
