"""The folder of an unfinished run: saved states from which it goes on, of which only whole ones count.

    <out>.training/run.json            what is trained, to refuse going on with something else
                   checkpoint-<step>/  what the trainer wrote; whole.json, written last, names its files and their sizes
                   best-<step>/        the weights with the lowest validation loss so far

A process that is killed while it saves leaves a folder without whole.json. It is removed, and the one before is there.
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

RUN, WHOLE = "run.json", "whole.json"


class State:
    """The saved states of one run.

    Args:
        out: the folder that the run will write.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out.with_name(out.name + ".training")

    def open(self, run: Mapping[str, Any], *, resume: bool) -> Path | None:
        """Makes the folder or goes on with it, and returns the state to start from, or None to start anew.

        Args:
            run: what is trained, as JSON; a run goes on only with the same.
            resume: whether a run that is there shall go on.

        Raises:
            TrainingError: a run with saved steps is there and shall not go on, or is another one.
        """
        document = json.loads(json.dumps(run))
        begun = self.newest()
        if begun is None:  # nothing that could be lost
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / RUN, document)
            self._sweep()
            return None
        if not resume:
            raise TrainingError(
                f"{self.folder}: holds an unfinished run, {self.step(begun)} steps of which are saved. "
                "Give resume=True to go on with it, or remove that folder to start anew."
            )
        known = json.loads((self.folder / RUN).read_text("utf-8"))
        if different := [
            name for name in {*known, *document} if known.get(name) != document.get(name)
        ]:
            pairs = "; ".join(
                f"{name} was {known.get(name)!r} and is {document.get(name)!r}"
                for name in sorted(different)
            )
            raise TrainingError(
                f"{self.folder}: the unfinished run there is another one: {pairs}. Give what it was begun with, or "
                "remove that folder to start anew."
            )
        self._sweep()
        return begun

    def newest(self) -> Path | None:
        """The whole state with the most steps."""
        return max(filter(_is_whole, self.folder.glob("checkpoint-*")), key=self.step, default=None)

    @staticmethod
    def step(folder: Path | None) -> int:
        """Steps that a saved state, or saved weights, have behind them."""
        return int(folder.name.rpartition("-")[2]) if folder is not None else 0

    def best(self, step: int) -> Path:
        """Where the best weights of that step are."""
        return self.folder / f"best-{step}"

    def seal(self, step: int, best_step: int | None, spent: Spent) -> None:
        """Declares the state of this step whole; then, and only then, removes older states and weights.

        Args:
            step: of the state that the trainer has written.
            best_step: whose weights it counts as the best.
            spent: the cost up to here.
        """
        folder = self.folder / f"checkpoint-{step}"
        files = {
            file.relative_to(folder).as_posix(): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        for name in files:
            flush(folder / name)
        write_json(folder / WHOLE, {"files": files, "spent": asdict(spent)})
        kept = {folder, self.best(best_step or 0)}
        for old in [*self.folder.glob("checkpoint-*"), *self.folder.glob("best-*")]:
            if old not in kept:
                shutil.rmtree(old)

    def spent(self, folder: Path | None, phase: str) -> Spent:
        """What the run had cost at a saved state."""
        if folder is None:
            return Spent(phase)
        return Spent(**json.loads((folder / WHOLE).read_text("utf-8"))["spent"])

    def remove(self) -> None:
        """The run is done."""
        shutil.rmtree(self.folder)

    def _sweep(self) -> None:
        for folder in self.folder.glob("checkpoint-*"):
            if not _is_whole(folder):
                shutil.rmtree(
                    folder, ignore_errors=True
                )  # every process of a launch sweeps; another may be quicker


def _is_whole(folder: Path) -> bool:
    if not (folder / WHOLE).is_file():
        return False
    files = json.loads((folder / WHOLE).read_text("utf-8"))["files"]
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in files.items()
    )


def write_json(path: Path, document: object) -> None:
    """Write a JSON file that is there whole, or not at all, even after a loss of power."""
    write_whole(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n", durable=True)
