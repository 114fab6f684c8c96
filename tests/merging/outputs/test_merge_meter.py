"""The progress of an export: it moves while a tensor is read, never falls, and ends at its total."""

import time
from typing import NamedTuple

import pytest
import torch

from merging import Checkpoint, Recipe, export, open_vector, threads
from merging.engine import loop
from merging.engine.loop import Cpu
from merging.engine.tasks import tasks
from merging.errors import ExportError
from merging.inputs.checkpoint import tell_read
from merging.outputs.merge_meter import MergeMeter

METHODS = {
    "task_arithmetic": {},
    "ties": {"density": 0.3},
    "breadcrumbs": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "model_stock": {},
    "tsv": {},
    "metagpt": {},
}


class Parts(NamedTuple):
    """What an export is made of, but for the recipe."""

    base: Checkpoint
    vectors: dict

    def recipe(self, method, **parameters):
        return Recipe.compose(
            self.base.path,
            {name: vector.tuned.path for name, vector in self.vectors.items()},
            dict.fromkeys(self.vectors, 0.5),
            method=method,
            parameters=parameters,
        )


@pytest.fixture
def parts(tmp_path, tuned, write):
    """A base in float32 and two fine-tunes; the embedding is large enough for methods in blocks."""
    shapes = {"embed_tokens": (1031, 257), "norm": (257,)}
    shapes |= {f"layers.{n}.mlp.up_proj": (101, 257) for n in range(2)}
    weights = {f"model.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    base = Checkpoint(write(tmp_path / "base", weights))
    paths = {name: write(tmp_path / name, tuned(weights, n)) for n, name in enumerate("ab", 1)}
    return Parts(base, {name: open_vector(path, base) for name, path in paths.items()})


@pytest.fixture
def small(monkeypatch):
    """Many pieces for each tensor, and a clock that ticks all the time."""
    monkeypatch.setattr(loop, "PIECE", 50_000)
    monkeypatch.setattr(loop, "BLOCK", 20_000)
    monkeypatch.setattr(threads, "TICK", 0.0001)


def metered(parts, recipe, calls):
    todo = tasks(recipe, *parts)
    return todo, MergeMeter(todo, parts.base, lambda *call: calls.append(call))


@pytest.mark.parametrize("method", METHODS)
def test_an_export_s_progress_never_falls_and_ends_at_its_total(method, parts, small, tmp_path):
    calls = []
    recipe = parts.recipe(method, **METHODS[method])
    export(recipe, *parts, tmp_path / "out", progress=lambda *call: calls.append(call), threads=2)
    steps = list(dict.fromkeys(step for step, _, _ in calls))
    assert steps == ["measure"] * (method == "metagpt") + ["write", "verify"]
    for step in steps:
        done = [at for name, at, _ in calls if name == step]
        (total,) = {of for name, _, of in calls if name == step}
        assert done == sorted(done) and done[-1] == total
        assert step != "write" or done.count(total) == 1


def test_the_bytes_of_a_sum_are_those_of_base_and_vectors(parts):
    calls = []
    todo, meter = metered(parts, parts.recipe("task_arithmetic"), calls)
    assert meter.total == 3 * parts.base.nbytes
    # The first tensor, in two halves: what is written counts, and so does what was only read.
    task = todo[0]
    work = 3 * 4 * task.numel
    with meter.reading(task):
        tell_read(work // 4)
    meter.tell()
    meter.took(task, task.numel // 2)
    with meter.reading(task):
        tell_read(work)  # more than was expected: the tensor is not complete all the same
    meter.tell()
    meter.took(task, task.numel - task.numel // 2)
    half = int(work * ((task.numel // 2) / task.numel))
    assert [done for _, done, _ in calls] == [work // 4, half, work - 1, work]
    assert {(step, total) for step, _, total in calls} == {("write", meter.total)}


@pytest.mark.parametrize(
    ("method", "part", "least"),
    [
        ("ties", "embed", 0.6),  # two or three passes look for the ranks, one computes
        ("model_stock", "embed", 0.9),
        ("dare_ties", "embed", 0.5),  # whole: half of it is reading
        ("tsv", "up_proj", 1 / (2 + 101 / 32)),  # a matrix that is decomposed
    ],
)
def test_it_moves_before_the_first_tensor_is_complete(method, part, least, parts):
    calls = []
    todo, meter = metered(parts, parts.recipe(method, **METHODS[method]), calls)
    task = next(task for task in todo if part in task.name)
    out = torch.empty(task.numel, dtype=task.out_dtype)
    with meter.reading(task):
        meter.tell()
        Cpu().compute(task, *parts, 0, out)
        meter.tell()
    seen = [done for _, done, _ in calls]
    assert seen[0] == 0
    work = meter._work[task.name]
    assert int(least * work) <= seen[1] < work


def test_the_next_tensor_is_measured_by_what_the_last_one_really_read(parts):
    calls = []
    todo, meter = metered(parts, parts.recipe("task_arithmetic"), calls)
    first, second = [task for task in todo if "up_proj" in task.name]
    work = 3 * 4 * first.numel
    with meter.reading(first):
        tell_read(4 * work)  # four passes instead of one
    meter.took(first, first.numel)
    with meter.reading(second):
        tell_read(work)
    meter.tell()
    assert calls[-1][1] == work + work // 4


def test_what_is_in_no_file_counts_when_it_is_written(parts):
    """Such as the rows of a token table that are made up of several checkpoints."""
    calls = []
    todo, meter = metered(parts, parts.recipe("task_arithmetic"), calls)
    first, second = [task for task in todo if "up_proj" in task.name]
    meter.took(first, first.numel)
    with meter.reading(second):
        tell_read(1)
    meter.took(second, 1)
    work = [3 * 4 * task.numel for task in (first, second)]
    assert [done for _, done, _ in calls] == [work[0], work[0] + 3 * 4]


def test_copied_and_whole_tensors_teach_nothing(parts):
    calls = []
    todo, meter = metered(parts, parts.recipe("tsv"), calls)
    whole = next(task for task in todo if task.whole)
    with meter.reading(whole):
        tell_read(1)
    meter.took(whole, whole.numel)
    assert meter._estimated == 0


def test_whoever_cancels_stops_a_long_read(parts):
    todo = tasks(parts.recipe("ties", density=0.3), *parts)

    def cancel(step, done, total):
        raise KeyboardInterrupt

    meter = MergeMeter(todo, parts.base, cancel)
    with meter.reading(todo[0]):
        tell_read(1)
        with pytest.raises(KeyboardInterrupt):
            meter.tell()
        with pytest.raises(ExportError, match="stopped"):
            tell_read(1)


def test_known_lengths_are_not_read_again(parts, small, tmp_path):
    recipe, calls = parts.recipe("metagpt"), []
    tasks(recipe, *parts)
    export(recipe, *parts, tmp_path / "out", progress=lambda step, *of: calls.append(step))
    assert "measure" not in calls


def test_counting_costs_nothing_that_can_be_measured(parts):
    """A thousand reads and reports take milliseconds; an export of 7B in pieces has some 7,000."""
    todo, meter = metered(parts, parts.recipe("task_arithmetic"), [])
    begin = time.process_time()
    with meter.reading(todo[0]):
        for _ in range(1000):
            tell_read(1)
            meter.tell()
    assert time.process_time() - begin < 0.5
