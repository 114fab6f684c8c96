"""The command line of each action on the page, ready to copy into a shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path


def display_path(path: str | Path) -> str:
    """A path as a reader writes it: relative where it lies under the working directory."""
    real = os.path.realpath(path)
    relative = os.path.relpath(real)
    return real if relative.startswith("..") else relative


def _line(*words: str) -> str:
    return shlex.join(("dem", *words))


def loss(recipe: Path, data: Path) -> str:
    """Validation loss per dataset."""
    return _line("loss", display_path(recipe), "--data", display_path(data))


def bench(recipe: Path, suite: str, tasks: Sequence[str], limit: int | None, workdir: Path) -> str:
    """A benchmark of one composition, kept in the workdir's table of runs."""
    what = ("--tasks", ",".join(tasks)) if tasks else ("--suite", suite)
    return _line(
        "bench",
        display_path(recipe),
        *what,
        *(("--limit", str(limit)) if limit else ()),
        "--workdir",
        display_path(workdir),
    )


def merge(recipe: Path, out: Path, dtype: str | None) -> str:
    """An export."""
    return _line(
        "merge", display_path(recipe), display_path(out), *(("--dtype", dtype) if dtype else ())
    )


def train(plan: Path, out: Path, workdir: Path, resume: bool = False) -> str:
    """A plan carried out, its cost in the workdir's ledger."""
    return _line(
        "train",
        display_path(plan),
        display_path(out),
        "--workdir",
        display_path(workdir),
        *(("--resume",) if resume else ()),
    )


def inspect(base: Path, checkpoints: Sequence[Path], vocabulary: str = "refuse") -> str:
    """Preflight report and geometry."""
    choice = ("--vocabulary", vocabulary) if vocabulary != "refuse" else ()
    return _line("inspect", display_path(base), *map(display_path, checkpoints), *choice)


def compare(
    base: Path,
    checkpoints: Sequence[Path],
    workdir: Path,
    data: Path | None = None,
    recipes: Sequence[Path] = (),
    suite: str = "",
    tasks: Sequence[str] = (),
    limit: int | None = None,
    mixed: Sequence[str] | None = None,
    vocabulary: str = "refuse",
) -> str:
    """Everything of a workdir side by side with its costs; what is missing is measured."""
    words = [
        display_path(base),
        *map(display_path, checkpoints),
        "--workdir",
        display_path(workdir),
    ]
    words += ["--data", display_path(data)] if data else []
    words += ["--vocabulary", vocabulary] if vocabulary != "refuse" else []
    words += [word for recipe in recipes for word in ("--recipe", display_path(recipe))]
    words += ["--tasks", ",".join(tasks)] if tasks else ["--suite", suite] if suite else []
    words += ["--limit", str(limit)] if limit and (suite or tasks) else []
    words += ["--measure", "--cost"]
    words += [word for name in mixed or () for word in ("--mixed", name)]
    return _line("compare", *words)


def verify(folder: Path) -> str:
    """Recompute an export's manifest."""
    return _line("verify", display_path(folder))
