"""The folder of an unfinished run: its saved states, of which only complete ones count.

    <out>.training/run.json            the stage, so that no other stage continues the run
                   checkpoint-<step>/  a state that the trainer wrote; whole.json, written last,
                                       lists its files and their sizes
                   best-<step>/        the weights with the lowest validation loss so far
                   epoch-<number>/     the checkpoint at the end of an epoch, with keep_epochs

A process that is killed while it saves leaves a state without whole.json. This state is removed,
and the state before it is still there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plumbing.atomic import flush, write_whole
from training.errors import TrainingError
from training.run.cost import Spent
from training.run.record import with_defaults

RUN, WHOLE = "run.json", "whole.json"
"""Files of the folder: the stage of the run, and in each state the mark that it is complete."""


class State:
    """The saved states of one run.

    Args:
        out: the folder that the run will write.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out.with_name(out.name + ".training")

    def open(self, run: Mapping[str, Any], *, resume: bool) -> Path | None:
        """Makes the folder or continues in it.

        Args:
            run: everything that determines the run, as JSON values. An unfinished run continues
                only if these are the same.
            resume: whether an unfinished run may continue.

        Returns:
            The state to start from; None to start at the first step.

        Raises:
            TrainingError: there is an unfinished run with saved steps, and it may not continue or
                is a different run.
        """
        # As it will be read back: JSON turns tuples into lists, which would not compare equal.
        document = json.loads(json.dumps(run))
        begun = self.newest()
        # Without a complete state, nothing is lost by starting again.
        if begun is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / RUN, document)
            self._sweep()
            return None
        if not resume:
            raise TrainingError(
                f"{self.folder}: holds an unfinished run, "
                f"{self.step(begun)} steps of which are saved. "
                "Give resume=True to continue it, or remove that folder to start anew."
            )
        # An earlier version recorded fewer settings; the new ones had their defaults.
        new = {name: value for name, value in with_defaults({}).items() if name in document}
        saved = new | self.run
        if different := [
            name for name in {*saved, *document} if saved.get(name) != document.get(name)
        ]:
            pairs = "; ".join(
                f"{name} was {saved.get(name)!r} and is {document.get(name)!r}"
                for name in sorted(different)
            )
            raise TrainingError(
                f"{self.folder}: the unfinished run there is another one: {pairs}. "
                "Give the values that it began with, or remove that folder to start anew."
            )
        self._sweep()
        return begun

    @property
    def run(self) -> dict[str, Any]:
        """What determines the unfinished run in the folder; {} if there is none."""
        file = self.folder / RUN
        content: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
        return content

    def newest(self) -> Path | None:
        """Returns the complete state with the most steps; None if there is none."""
        return max(filter(_is_whole, self.folder.glob("checkpoint-*")), key=self.step, default=None)

    @staticmethod
    def step(folder: Path | None) -> int:
        """Returns the number of steps before a saved state or saved weights; 0 for None."""
        return int(folder.name.rpartition("-")[2]) if folder is not None else 0

    def epoch(self, number: int) -> Path:
        """Returns the folder of the checkpoint at the end of an epoch, counted from 1."""
        return self.folder / f"epoch-{number}"

    def best(self, step: int) -> Path:
        """Returns the folder of the best weights, which are those of step `step`."""
        return self.folder / f"best-{step}"

    def seal(self, step: int, best_step: int | None, spent: Spent) -> None:
        """Marks the state of a step as complete, and only then removes older states and weights.

        Args:
            step: step of the state that the trainer has written.
            best_step: step of the best weights so far; None if there are none.
            spent: cost of the run up to this state.
        """
        folder = self.folder / f"checkpoint-{step}"
        files = {
            file.relative_to(folder).as_posix(): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        # The files must be on the disk before the mark, or a power cut could leave the mark alone.
        for name in files:
            flush(folder / name)
        write_json(folder / WHOLE, {"files": files, "spent": asdict(spent)})
        # A best-<step> folder stays as long as the newest state names it, even if its own state is
        # gone.
        kept = {folder, self.best(best_step or 0)}
        for old in [*self.folder.glob("checkpoint-*"), *self.folder.glob("best-*")]:
            if old not in kept:
                shutil.rmtree(old)

    def spent(self, folder: Path | None, phase: str) -> Spent:
        """Returns the cost of the run up to a saved state; no cost for None."""
        if folder is None:
            return Spent(phase)
        return Spent(**json.loads((folder / WHOLE).read_text("utf-8"))["spent"])

    def remove(self) -> None:
        """Removes the folder when the run is finished."""
        shutil.rmtree(self.folder)

    def _sweep(self) -> None:
        """Removes incomplete states, and what was not written to its end of an epoch."""
        for folder in [*self.folder.glob("checkpoint-*"), *self.folder.glob("epoch-*.partial")]:
            if not _is_whole(folder):
                # Every process of a launch does this, and another one may be faster.
                shutil.rmtree(folder, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Returns whether a state is complete: it has its mark, and all files have their size."""
    if not (folder / WHOLE).is_file():
        return False
    files = json.loads((folder / WHOLE).read_text("utf-8"))["files"]
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in files.items()
    )


def write_json(path: Path, document: object) -> None:
    """Writes a JSON file that is complete or absent, even after a power cut."""
    write_whole(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n", durable=True)
