"""The `dem` command line of each action on the page, ready to copy into a shell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbing.shell import shell_line, shell_path

SHARD_BYTES = 5_000_000_000
"""The largest weight file of `dem merge`, unless --shard-gb says otherwise."""


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
    return shell_line(("dem", *words))


def _path(path: str | Path) -> str:
    """Returns a path as a word of a command line."""
    return shell_path(display_path(path))


def shown(words: Sequence[str | Path]) -> str:
    """Returns the command line of `dem` with these words; paths are shown as a user writes them."""
    return _line(*(_path(word) if isinstance(word, Path) else word for word in words))


def loss(recipe: Path, data: Path) -> str:
    """Returns the command that measures the validation loss of a recipe on every dataset."""
    return _line("loss", _path(recipe), "--data", _path(data))


def search(recipe: Path, data: Path, workdir: Path, options: Sequence[str]) -> str:
    """Returns the command that searches the ω of a recipe; see Wanted.options for its options."""
    return _line(
        "search", _path(recipe), "--data", _path(data), "--workdir", _path(workdir), *options
    )


def bench(recipe: Path, suite: str, tasks: Sequence[str], limit: int | None, workdir: Path) -> str:
    """Returns the command that benchmarks one recipe and keeps its runs in the workdir."""
    selection = ("--tasks", ",".join(tasks)) if tasks else ("--suite", suite)
    return _line(
        "bench",
        _path(recipe),
        *selection,
        *(("--limit", str(limit)) if limit else ()),
        "--workdir",
        _path(workdir),
    )


def merge(recipe: Path, out: Path, dtype: str | None = None, shard_bytes: int = SHARD_BYTES) -> str:
    """Returns the command that exports a recipe as a model folder."""
    options = ["--dtype", dtype] if dtype else []
    # `dem merge` rounds gigabytes to bytes, so that the same number comes back.
    options += ["--shard-gb", str(shard_bytes / 1e9)] if shard_bytes != SHARD_BYTES else []
    return _line("merge", _path(recipe), _path(out), *options)


def merge_again(out: Path, shard_bytes: int = SHARD_BYTES) -> str:
    """Returns the command that makes an export again beside itself, from its own recipe.yml.

    That recipe has the dtype and the digests of the inputs, and goes where the export goes.
    """
    return merge(out / "recipe.yml", out.with_name(f"{out.name}-again"), None, shard_bytes)


def train(plan: Path, out: Path, workdir: Path, resume: bool = False) -> str:
    """Returns the command that carries out a plan and writes its cost to the workdir's ledger."""
    return _line(
        "train",
        _path(plan),
        _path(out),
        "--workdir",
        _path(workdir),
        *(("--resume",) if resume else ()),
    )


def inspect(base: Path, checkpoints: Sequence[Path], vocabulary: str = "refuse") -> str:
    """Returns the command that prints the preflight report and the geometry."""
    option = ("--vocabulary", vocabulary) if vocabulary != "refuse" else ()
    return _line("inspect", _path(base), *map(_path, checkpoints), *option)


def compare(options: CompareOptions) -> str:
    """Returns the command that compares everything in a workdir and measures what is missing."""
    suite, tasks, limit = options.suite, options.tasks, options.limit
    words = [
        _path(options.base),
        *map(_path, options.checkpoints),
        "--workdir",
        _path(options.workdir),
    ]
    words += ["--data", _path(options.data)] if options.data else []
    words += ["--vocabulary", options.vocabulary] if options.vocabulary != "refuse" else []
    words += [word for recipe in options.recipes for word in ("--recipe", _path(recipe))]
    words += ["--tasks", ",".join(tasks)] if tasks else ["--suite", suite] if suite else []
    # `dem compare` refuses a limit without a benchmark.
    words += ["--limit", str(limit)] if limit and (suite or tasks) else []
    words += ["--measure", "--cost"]
    words += [word for name in options.mixed or () for word in ("--mixed", name)]
    return _line("compare", *words)


def verify(folder: Path) -> str:
    """Returns the command that checks an export against its manifest."""
    return _line("verify", _path(folder))
