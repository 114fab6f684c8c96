"""Commands that make something of weights: merges, adapters, vectors."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.app import command
from workbench.cli.output import Force, Json, note, report_to
from workbench.cli.shared import (
    Base,
    NewFolder,
    RecipeFile,
    as_typed,
    dtype_option,
    names_of,
    recipe_from,
    resolver,
    stage_bars,
    stop_on_errors,
    tell,
)


@command(
    "Merge",
    "dem merge assets/demo/recipe.yml merged",
    "dem merge assets/demo/recipe.yml merged-16 --dtype bfloat16",
)
def merge(
    context: typer.Context,
    recipe: RecipeFile,
    out: NewFolder,
    dtype: Annotated[
        str,
        dtype_option("Output dtype: float32, bfloat16 or float16; overrides the recipe."),
    ] = "",
    shard_gb: Annotated[
        float, typer.Option(metavar="N", help="Gigabytes of weights per file.", min=1e-6)
    ] = 5.0,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda or cuda:N.")
    ] = "cpu",
    as_adapter: Annotated[
        bool,
        typer.Option(
            "--as-adapter",
            help="Write one PEFT adapter; all models of the recipe must be adapters.",
        ),
    ] = False,
    rank: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Limit the adapter to this rank (default: no limit, exact)."
        ),
    ] = None,
) -> None:
    """Merge the models of a recipe and write a Hugging Face folder, complete and verified."""
    from dataclasses import replace

    from merging import export, prepare
    from merging.engine.accelerator import open_accelerator
    from merging.errors import RecipeError
    from merging.inputs.hub import probe
    from merging.outputs.adapter_export import export_adapter
    from merging.recipe.formula import formula
    from workbench.reports import tables

    if rank is not None and not as_adapter:
        raise RecipeError("--rank is the rank of an adapter; add --as-adapter, or leave it out.")
    if as_adapter and shard_gb != 5.0:
        raise RecipeError("--shard-gb is for full models; an adapter is one file. Leave it out.")
    if device != "cpu" and as_adapter:
        raise RecipeError(
            f"--device {device} is for full models; adapters are computed on the CPU. Leave it out."
        )
    on = open_accelerator(device)
    wanted = recipe_from(recipe)
    wanted = replace(wanted, out_dtype=dtype) if dtype else wanted
    with resolver() as located:
        base, vectors, problems = prepare(
            wanted, located, None if as_adapter else out, probe, check_inputs=False
        )
    tell(problems)
    command = as_typed(context)
    with stage_bars(in_bytes=not as_adapter) as progress:  # an adapter's step is in matrices
        if as_adapter:
            fit = export_adapter(
                wanted, base, vectors, out, rank=rank, progress=progress, command=command
            )
        else:
            shard_bytes = round(shard_gb * 1e9)
            export(
                wanted,
                base,
                vectors,
                out,
                shard_bytes=shard_bytes,
                progress=progress,
                command=command,
                device=on,
            )
    if as_adapter:
        typer.echo(tables.adapter(fit))
    if on:
        typer.echo(on.report(wanted.method))
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    typer.echo(f"{out}: {formula(wanted)}, {size:,.1f} MB, verified")


@command(
    "Merge",
    "dem extract assets/demo/base assets/demo/cot cot-lora --rank 8",
    "dem extract assets/demo/base assets/demo/sni sni-lora --energy 0.9",
)
def extract(
    context: typer.Context,
    base: Base,
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A full fine-tune of the base.")
    ],
    out: NewFolder,
    rank: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The rank of the adapter.")
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Instead of a rank: the share of each matrix's ‖Δ‖² to keep, such as 0.9.",
        ),
    ] = None,
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings", help="Also include embeddings and LM head (untied models only)."
        ),
    ] = False,
    dtype: Annotated[
        str, dtype_option("Dtype of the adapter file: float32 (default), bfloat16 or float16.")
    ] = "",
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Make a LoRA adapter of a full fine-tune, and report what it misses per layer."""
    from merging import preflight
    from merging.inputs.hub import probe
    from merging.outputs.adapter_extract import extract as extract_adapter
    from workbench.reports import tables

    report = report_to(json_file, force)
    names = names_of([checkpoint])
    with resolver() as located:
        # A fine-tune with added tokens has linear modules of the base's shapes all the same.
        opened = preflight(base, [checkpoint], names, "base", locate=located, probe=probe)
    tell(opened.problems)
    stop_on_errors(opened.problems)
    (vector,) = opened.vectors.values()
    with stage_bars(in_bytes=False) as progress:
        fit = extract_adapter(
            vector,
            opened.base,
            out,
            rank=rank,
            energy=energy,
            embeddings=embeddings,
            dtype=dtype or None,
            base_name=base,
            progress=progress,
            command=as_typed(context),
        )
    report.show(tables.adapter(fit))
    digests = {"base": opened.base.digest, "checkpoint": vector.digest}
    report.write({**digests, "adapter": str(out), **fit.as_data()})


@command(
    "Merge",
    "dem vector assets/demo/base assets/demo/cot cot-vector",
    "dem vector assets/demo/base assets/demo/cot diff --minus assets/demo/sni",
)
def vector(
    context: typer.Context,
    base: Base,
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A fine-tune, an adapter or a saved vector.")
    ],
    out: NewFolder,
    dtype: Annotated[
        str, dtype_option("Dtype of the file: float32, which is exact, bfloat16 or float16.")
    ] = "float32",
    minus: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECKPOINT", help="A vector to take away; repeatable."),
    ] = None,
    plus: Annotated[
        list[str] | None, typer.Option(metavar="CHECKPOINT", help="A vector to add; repeatable.")
    ] = None,
) -> None:
    """Save a distribution vector on its own, or an analogy of several.

    The result is Δ(CHECKPOINT) − Δ(minus) + Δ(plus).
    """
    from merging import preflight
    from merging.inputs.hub import probe
    from merging.inputs.saved_vector import SavedVector
    from merging.inputs.vector_arithmetic import Combined
    from merging.outputs.vector_folder import save_vector

    references = [checkpoint, *(minus or []), *(plus or [])]
    with resolver() as located:
        opened = preflight(base, references, names_of(references), locate=located, probe=probe)
    tell(opened.problems)
    stop_on_errors(opened.problems)
    signs = [1.0, *[-1.0] * len(minus or []), *[1.0] * len(plus or [])]
    terms = list(zip(signs, opened.vectors.values(), strict=True))
    words = [f"{'−' if sign < 0 else '+'} Δ{delta.name}" for sign, delta in terms]
    formula = " ".join(words).removeprefix("+ ")
    with stage_bars() as progress:
        save_vector(
            terms[0][1] if len(terms) == 1 else Combined(formula, terms),
            out,
            dtype=dtype,
            progress=progress,
            command=as_typed(context),
        )
    facts = SavedVector(out, opened.base).facts
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    exact = "exact" if dtype == "float32" else f"{facts.error:.2%} off"
    typer.echo(f"{out}: {formula}, {dtype}, {exact}, {size:,.1f} MB, verified")


@command("Merge", "dem verify merged", "dem verify cot-lora --quiet")
def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What dem merge, extract or vector wrote.")
    ],
) -> None:
    """Check that an exported folder is unchanged since it was written."""
    from merging import verify as verify_export
    from workbench.errors import SessionError

    if not folder.exists():
        raise SessionError(f"{folder} does not exist. Give a folder that dem merge wrote.")
    manifest = verify_export(folder)
    typer.echo(
        f"{folder}: {len(manifest.files)} files, {manifest.nbytes / 1e6:,.1f} MB, all as written"
    )


@command(
    "Merge", "dem convert model.Q8_0.gguf model", "dem convert model.gguf base --dtype bfloat16"
)
def convert(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.gguf",
            help="A GGUF file of a language model; needs the package gguf.",
        ),
    ],
    out: NewFolder,
    dtype: Annotated[
        str,
        dtype_option("Dtype of the weights: float32 (default), bfloat16 or float16."),
    ] = "float32",
) -> None:
    """Turn a GGUF file into a folder that can be a base or a checkpoint."""
    from workbench.gguf.convert import convert as convert_gguf

    done = convert_gguf(file, out, dtype)
    for each in done.notes:
        note(each)
    stored = ", ".join(sorted(done.types, key=lambda name: -done.types[name]))
    was = "; the inputs were quantised" if done.quantised else ""
    typer.echo(f"{out}: {done.parameters:,} weights in {dtype}, from {stored}{was}")
