"""Export job: writes a composition as a model folder of the workdir and verifies it."""

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
    from workbench.session.tickets import Stale


def submit(
    session: Session,
    recipe: Recipe,
    name: str,
    dtype: str | None = None,
    shard_bytes: int = commands.SHARD_BYTES,
) -> Job:
    """Starts a job that writes a composition to workdir/exports/NAME and verifies it.

    Args:
        session: with open models.
        recipe: the composition.
        name: name of the folder.
        dtype: dtype of the written weights; None for the dtype of the recipe.
        shard_bytes: largest size of one weight file in bytes.

    Raises:
        SessionError: the name is not a plain file name, or the folder exists.
    """
    from merging.recipe.formula import formula

    out = session.workdir.export(name)
    if out.exists():
        raise SessionError(
            f"{commands.display_path(out)} exists already, and nothing is overwritten. "
            "Choose another name."
        )
    frozen = replace(recipe, out_dtype=dtype) if dtype else recipe
    # The job keeps these models, even if others are opened while it is queued.
    models = session.models
    command = commands.merge(session.workdir.save_recipe(recipe), out, dtype, shard_bytes)

    def work(handle: Handle) -> str:
        from evaluation.records.meter import measured
        from merging import export

        base, vectors = models.reopened(recipe)

        # Lengths of whole vectors take about as long to measure as the merge itself.
        first = 0.5 if frozen.definition.closed_form else 0.0
        # What was written is read back at once, so little is left to verify at the end.
        begins = {"measure": (0.0, first), "write": (first, 1.0), "verify": (1.0, 1.0)}

        def progress(stage: str, done: int, total: int) -> None:
            begin, end = begins[stage]
            handle.progress(begin + (end - begin) * done / total, 1.0, stage)

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
                # The recipe that is inside the export: the one in the workdir may be gone by then.
                command=commands.merge_again(out, shard_bytes),
            )
        handle.log(f"verified: {commands.display_path(path)}")
        return str(path)

    return session.jobs.submit(
        "export", f"{formula(recipe)} to {name}", work, key=str(out), command=command
    )


def rounding(
    models: Models, recipe: Recipe, dtype: str | None, stale: Stale = lambda: False
) -> RoundingCost:
    """Returns what rounding to this dtype would cost, from one pass over the files.

    Args:
        models: the open models.
        recipe: the composition.
        dtype: dtype of the export; None for the dtype of the recipe.
        stale: asked after every tensor.

    Raises:
        Stopped: `stale` became true before the end.
    """
    from evaluation.errors import Stopped
    from merging.analysis.rounding_cost import rounding_cost

    def progress(done: int, total: int) -> None:
        if stale():
            raise Stopped("another composition or dtype was asked for")

    return rounding_cost(
        replace(recipe, out_dtype=dtype or recipe.out_dtype), *models.reopened(recipe), progress
    )


def nbytes(base: Checkpoint, dtype: str | None) -> int:
    """Returns about how many bytes of weights an export has, in this dtype or in the base's own."""
    # Integer tensors keep their dtype in an export.
    width = {"float16": 2, "bfloat16": 2, "float32": 4}.get(dtype or "")
    infos = [base.info(name) for name in base]
    return sum(
        info.numel * width if width and info.dtype.is_floating_point else info.nbytes
        for info in infos
    )
