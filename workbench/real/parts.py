"""The parts of the real demo's build, which run two at a time in processes of their own.

A model of this size keeps one core busy, and gains little from a second: two processes with one
thread each do more than one process with two.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from corpus.real.datasets import EXPERTS, UNSEEN
from workbench.real import plan
from workbench.real.search import BASE, FULL_ROW, MIXED, OWN, Found

if TYPE_CHECKING:
    from merging import Recipe
    from workbench.real.rows import Measurements


@dataclass(frozen=True)
class BuildFolder:
    """Where a build works."""

    folder: Path
    base: Path

    @property
    def data(self) -> Path:
        """Folder of the datasets."""
        return self.folder / "data"

    def trained(self, seed: int, name: str) -> Path:
        """Folder of a trained checkpoint."""
        return self.folder / f"seed-{seed}" / name

    def recipe(self, seed: int) -> Recipe:
        """The composition of a seed's experts, with ω = 0."""
        from merging import Recipe

        return Recipe.compose(self.base, {name: self.trained(seed, name) for name in EXPERTS})


class Part(NamedTuple):
    """One part of a build."""

    kind: Literal["train", "ends", "search", "row", "said"]
    seed: int
    label: str = ""
    """What is trained, searched or measured."""
    known: Any = None
    """What earlier parts found: the ends for a search, what it found for a row."""

    @property
    def key(self) -> str:
        """Its name among the results of a build."""
        return " ".join(filter(None, (self.kind, self.label, str(self.seed))))


class Result(NamedTuple):
    """What a part gave."""

    part: Part
    value: Any
    seconds: float


def run_all(parts: Iterable[Part], place: BuildFolder) -> Iterator[Result]:
    """Runs parts and yields each result as soon as it is there."""
    workers = max(1, min(2, os.cpu_count() or 1))
    # Threads of torch do not survive a fork.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_one_thread
    ) as pool:
        try:
            waiting = [pool.submit(run_part, part, place) for part in parts]
            for done in as_completed(waiting):
                yield done.result()
        except BaseException:
            # The pool would wait for a part, which may take minutes. A training leaves a saved
            # state at most, and everything else is made again.
            for child in active_children():
                child.terminate()
            raise


def run_part(part: Part, place: BuildFolder) -> Result:
    """Runs one part in this process."""
    started = time.perf_counter()
    value = _DO[part.kind](part, place)
    return Result(part, value, round(time.perf_counter() - started, 1))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _train(part: Part, place: BuildFolder) -> None:
    from training.run.finetune import run
    from workbench.real.rows import records

    data = records(place.data, "train", EXPERTS)
    stage = plan.stages(place.base, data, part.seed)[part.label]
    run(stage, place.trained(part.seed, part.label), resume=True)


def _ends(part: Part, place: BuildFolder) -> Any:
    return _measurements(place, part.seed).ends()


def _search(part: Part, place: BuildFolder) -> Any:
    return _measurements(place, part.seed).search(part.label, part.known)._asdict()


def _row(part: Part, place: BuildFolder) -> Any:
    measurements = _measurements(place, part.seed)
    if part.label == BASE:
        return measurements.composed({})
    if part.label == OWN:
        return measurements.own_experts()
    if part.label == MIXED:
        return measurements.alone(place.trained(part.seed, "mixed"))
    if part.label == FULL_ROW:
        return measurements.alone(place.trained(part.seed, plan.IN_FULL), (plan.FULL, UNSEEN))
    return measurements.row(part.label, Found(**part.known) if part.known else None)


def _said(part: Part, place: BuildFolder) -> Any:
    return _measurements(place, part.seed).said(Found(**part.known).omegas)


@lru_cache(maxsize=1)
def _measurements(place: BuildFolder, seed: int) -> Measurements:
    """Loads the base once for all parts of a seed that follow each other in a process."""
    from workbench.real.rows import Measurements

    return Measurements(place.recipe(seed), place.data, place.folder / "scratch", seed)


_DO: dict[str, Callable[[Part, BuildFolder], Any]] = {
    "train": _train,
    "ends": _ends,
    "search": _search,
    "row": _row,
    "said": _said,
}
