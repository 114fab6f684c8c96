"""Lays out the folder that the page opens: the base with the adapters and the data that ship."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from plumbing.atomic import write_whole
from workbench.errors import SessionError
from workbench.real.base import RealBase, cache, real_base
from workbench.real.plan import REAL

FOLDER = "demo"
"""Name of the folder in the cache."""


def page_folder(out: Path | None = None) -> tuple[Path, RealBase]:
    """Returns the folder that the page opens, and the base in it.

    What ships is copied anew when it has changed; whatever else is in the folder stays, such as
    adapters of the user.

    Args:
        out: the folder; one in the user's cache if None.

    Raises:
        SessionError: the base cannot be had, or the shipped adapters are missing.
    """
    if not (REAL / "recipe.yml").is_file():
        raise SessionError(
            f"{REAL} holds no adapters. Make them with `dem real build`, which takes about 90 "
            "minutes, or install the project from its repository."
        )
    base = real_base()
    folder = out if out is not None else cache() / FOLDER
    _link(base.folder, folder / "base")
    for path in sorted(REAL.rglob("*")):
        if path.is_file() and path.name != "recipe.yml":
            _copy(path, folder / path.relative_to(REAL))
    recipe = (REAL / "recipe.yml").read_text("utf-8")
    write_whole(folder / "recipe.yml", _placed(recipe, folder))
    return folder, base._replace(folder=folder / "base")


def _placed(recipe: str, folder: Path) -> str:
    """Returns the shipped recipe with the paths of a folder instead of its names."""
    from dataclasses import replace

    from merging import parse_recipe, recipe_yaml

    shipped = parse_recipe(recipe)
    models = tuple(
        replace(model, path=str(folder / "base"), lora=str(folder / str(model.lora)))
        for model in shipped.models
    )
    return recipe_yaml(replace(shipped, base=str(folder / "base"), models=models))


def _link(source: Path, target: Path) -> None:
    """Gives a folder's files a second name, or copies them where links cannot be made."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        there = target / file.name
        if there.exists() and there.samefile(file):
            continue
        there.unlink(missing_ok=True)
        try:
            os.link(file, there)
        except OSError:  # another disk, or a file system without links
            _copy(file, there)


def _copy(source: Path, target: Path) -> None:
    """Copies a file unless the target is the same size and as new."""
    given = source.stat()
    if target.is_file():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (given.st_size, given.st_mtime_ns):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: an open page may hold the former file in memory.
    partial = target.with_name(target.name + ".partial")
    shutil.copy2(source, partial)
    partial.replace(target)
