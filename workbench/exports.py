"""Exports of a session: compositions written under the workdir as jobs, and verified."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import commands
from workbench.errors import SessionError
from workbench.jobs import Handle, Job
from workbench.spending import key

if TYPE_CHECKING:
    from merging.checkpoint import Checkpoint
    from merging.recipe import Recipe
    from merging.rounding import RoundingCost
    from workbench.models import Models, Stale
    from workbench.session import Session


def submit(session: Session, recipe: Recipe, name: str, dtype: str | None, shard_bytes: int) -> Job:
    """Write a composition as an ordinary model folder under workdir/exports, as a job; export() verifies it."""
    out = folder(session.workdir, name)
    if out.exists():
        raise SessionError(f"{commands.shown(out)} exists already; choose another name, nothing is overwritten.")
    frozen = replace(recipe, out_dtype=dtype) if dtype else recipe
    models = session.models
    command = commands.merge(session.save_recipe(recipe), out, dtype)

    def work(handle: Handle) -> str:
        from evaluation.meter import measured
        from merging import export

        base, vectors = models.reopened(recipe)

        def progress(stage: str, done: int, total: int) -> None:
            handle.progress(done / total * 0.5 + (0.5 if stage == "verify" else 0.0), 1.0, stage)

        out.parent.mkdir(parents=True, exist_ok=True)
        with measured(session.ledger, "export", name, digest=key(recipe), output=str(out.resolve())):
            path = export(frozen, base, vectors, out, shard_bytes=shard_bytes, progress=progress, command=command)
        handle.log(f"verified: {commands.shown(path)}")
        return str(path)

    return session.jobs.submit("export", f"{recipe.formula()} to {name}", work, key=str(out), command=command)


def folder(workdir: Path, name: str) -> Path:
    """workdir/exports/NAME; SessionError for a name that is not a plain file name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name or ""):
        raise SessionError(
            f"the folder name is {name!r}; use 1 to 64 letters, digits, dots, dashes or underscores, "
            "starting with a letter or a digit."
        )
    return workdir / "exports" / name


def rounding(models: Models, recipe: Recipe, dtype: str | None, stale: Stale) -> RoundingCost:
    """What an export in this dtype would lose of a composition, from one pass over the files.

    Raises:
        Stopped: it became stale on the way.
    """
    from evaluation.errors import Stopped
    from merging.rounding import rounding_cost

    def progress(done: int, total: int) -> None:
        if stale():
            raise Stopped("another composition or number format was asked for")

    return rounding_cost(replace(recipe, out_dtype=dtype or recipe.out_dtype), *models.reopened(recipe), progress)


def nbytes(base: Checkpoint, dtype: str | None) -> int:
    """About how many bytes of weights an export of this base has."""
    width = {"float16": 2, "bfloat16": 2, "float32": 4}.get(dtype or "")
    infos = [base.info(name) for name in base]
    return sum(info.numel * width if width and info.dtype.is_floating_point else info.nbytes for info in infos)
