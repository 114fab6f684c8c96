"""Exports of a session: compositions written under the workdir as jobs, and verified."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from workbench import commands
from workbench.errors import SessionError
from workbench.session.job_table import Handle, Job
from workbench.session.keys import weights_key

if TYPE_CHECKING:
    from merging.analysis.rounding_cost import RoundingCost
    from merging.inputs.checkpoint import Checkpoint
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session
    from workbench.session.sizes import Stale


def submit(
    session: Session,
    recipe: Recipe,
    name: str,
    dtype: str | None = None,
    shard_bytes: int = 5_000_000_000,
) -> Job:
    """Write a composition as an ordinary model folder under workdir/exports, as a job; export() verifies it."""
    from merging.recipe.formula import formula

    out = session.workdir.export(name)
    if out.exists():
        raise SessionError(
            f"{commands.display_path(out)} exists already; choose another name, nothing is overwritten."
        )
    frozen = replace(recipe, out_dtype=dtype) if dtype else recipe
    models = session.models
    command = commands.merge(session.save_recipe(recipe), out, dtype)

    def work(handle: Handle) -> str:
        from evaluation.records.meter import measured
        from merging import export

        base, vectors = models.reopened(recipe)

        def progress(stage: str, done: int, total: int) -> None:
            handle.progress(done / total * 0.5 + (0.5 if stage == "verify" else 0.0), 1.0, stage)

        out.parent.mkdir(parents=True, exist_ok=True)
        with measured(
            session.ledger, "export", name, digest=weights_key(recipe), output=str(out.resolve())
        ):
            path = export(
                frozen,
                base,
                vectors,
                out,
                shard_bytes=shard_bytes,
                progress=progress,
                command=command,
            )
        handle.log(f"verified: {commands.display_path(path)}")
        return str(path)

    return session.jobs.submit(
        "export", f"{formula(recipe)} to {name}", work, key=str(out), command=command
    )


def rounding(
    models: Models, recipe: Recipe, dtype: str | None, stale: Stale = lambda: False
) -> RoundingCost:
    """What an export in this dtype would lose of a composition, from one pass over the files.

    Raises:
        Stopped: it became stale on the way.
    """
    from evaluation.errors import Stopped
    from merging.analysis.rounding_cost import rounding_cost

    def progress(done: int, total: int) -> None:
        if stale():
            raise Stopped("another composition or number format was asked for")

    return rounding_cost(
        replace(recipe, out_dtype=dtype or recipe.out_dtype), *models.reopened(recipe), progress
    )


def nbytes(base: Checkpoint, dtype: str | None) -> int:
    """About how many bytes of weights an export of this base has."""
    width = {"float16": 2, "bfloat16": 2, "float32": 4}.get(dtype or "")
    infos = [base.info(name) for name in base]
    return sum(
        info.numel * width if width and info.dtype.is_floating_point else info.nbytes
        for info in infos
    )
