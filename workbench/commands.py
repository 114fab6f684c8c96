"""The `dem` command line of each action on the page, ready to copy into a shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CompareOptions:
    """What `dem compare` is asked to put side by side.

    Attributes:
        base: folder of the base.
        checkpoints: folders of the fine-tuned checkpoints.
        workdir: folder with what was measured before.
        data: folder of validation datasets, or None.
        recipes: recipe files of compositions that get a row in any case.
        suite: suite that every row should have; "" for none.
        tasks: lm-eval tasks that every row should have; they take precedence over `suite`.
        limit: examples per task, or None for all.
        mixed: names of the added models that were trained on mixed data, or None for all of them.
        vocabulary: how to treat vocabularies that differ: refuse or base.
    """

    base: Path
    checkpoints: Sequence[Path]
    workdir: Path
    data: Path | None = None
    recipes: Sequence[Path] = ()
    suite: str = ""
    tasks: Sequence[str] = ()
    limit: int | None = None
    mixed: Sequence[str] | None = None
    vocabulary: str = "refuse"


def display_path(path: str | Path) -> str:
    """Returns a path as a user would write it: relative if it is under the working directory."""
    real = os.path.realpath(path)
    relative = os.path.relpath(real)
    return real if relative.startswith("..") else relative


def _line(*words: str) -> str:
    # Quoted, because the line is pasted into a shell and a path may hold spaces or a $.
    return shlex.join(("dem", *words))


def loss(recipe: Path, data: Path) -> str:
    """Returns the command that measures the validation loss of a recipe on every dataset."""
    return _line("loss", display_path(recipe), "--data", display_path(data))


def bench(recipe: Path, suite: str, tasks: Sequence[str], limit: int | None, workdir: Path) -> str:
    """Returns the command that benchmarks one recipe and keeps its runs in the workdir."""
    selection = ("--tasks", ",".join(tasks)) if tasks else ("--suite", suite)
    return _line(
        "bench",
        display_path(recipe),
        *selection,
        *(("--limit", str(limit)) if limit else ()),
        "--workdir",
        display_path(workdir),
    )


def merge(recipe: Path, out: Path, dtype: str | None) -> str:
    """Returns the command that exports a recipe as a model folder."""
    return _line(
        "merge", display_path(recipe), display_path(out), *(("--dtype", dtype) if dtype else ())
    )


def train(plan: Path, out: Path, workdir: Path, resume: bool = False) -> str:
    """Returns the command that carries out a plan and writes its cost to the workdir's ledger."""
    return _line(
        "train",
        display_path(plan),
        display_path(out),
        "--workdir",
        display_path(workdir),
        *(("--resume",) if resume else ()),
    )


def inspect(base: Path, checkpoints: Sequence[Path], vocabulary: str = "refuse") -> str:
    """Returns the command that prints the preflight report and the geometry."""
    option = ("--vocabulary", vocabulary) if vocabulary != "refuse" else ()
    return _line("inspect", display_path(base), *map(display_path, checkpoints), *option)


def compare(options: CompareOptions) -> str:
    """Returns the command that compares everything in a workdir and measures what is missing."""
    suite, tasks, limit = options.suite, options.tasks, options.limit
    words = [
        display_path(options.base),
        *map(display_path, options.checkpoints),
        "--workdir",
        display_path(options.workdir),
    ]
    words += ["--data", display_path(options.data)] if options.data else []
    words += ["--vocabulary", options.vocabulary] if options.vocabulary != "refuse" else []
    words += [word for recipe in options.recipes for word in ("--recipe", display_path(recipe))]
    words += ["--tasks", ",".join(tasks)] if tasks else ["--suite", suite] if suite else []
    # `dem compare` refuses a limit without a benchmark.
    words += ["--limit", str(limit)] if limit and (suite or tasks) else []
    words += ["--measure", "--cost"]
    words += [word for name in options.mixed or () for word in ("--mixed", name)]
    return _line("compare", *words)


def verify(folder: Path) -> str:
    """Returns the command that checks an export against its manifest."""
    return _line("verify", display_path(folder))
