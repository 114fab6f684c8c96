"""Commands that make something of weights: merges, adapters, vectors."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.app import app
from workbench.cli.shared import (
    Json,
    names_of,
    resolver,
    stage_bars,
    stop_on_errors,
    tell,
    write_json,
)


@app.command()
def merge(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe file, in mergekit's YAML.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to make; it must not exist.")
    ],
    dtype: Annotated[
        str, typer.Option(help="Write float32, bfloat16 or float16 whatever the recipe says.")
    ] = "",
    shard_gb: Annotated[
        float, typer.Option(help="The most gigabytes of weights in one file.", min=1e-6)
    ] = 5.0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda or cuda:N.")] = "cpu",
    as_adapter: Annotated[
        bool,
        typer.Option(
            "--as-adapter",
            help="Write one PEFT adapter; all models of the recipe must be adapters.",
        ),
    ] = False,
    rank: Annotated[
        int | None, typer.Option(min=1, help="The most rank of the adapter; exact if not given.")
    ] = None,
) -> None:
    """Merge and export; ends with code 0 only when the folder is complete and verified."""
    from dataclasses import replace

    from merging import export, prepare, with_identities
    from merging.dtypes import DTYPES
    from merging.engine.accelerator import open_accelerator
    from merging.errors import RecipeError
    from merging.inputs.hub import probe
    from merging.outputs.adapter_export import export_adapter
    from merging.recipe import read_recipe
    from merging.recipe.formula import formula
    from workbench.reports import tables

    if rank is not None and not as_adapter:
        raise RecipeError("--rank is the rank of an adapter; add --as-adapter, or leave it out.")
    if as_adapter and shard_gb != 5.0:
        raise RecipeError("--shard-gb is for full models; an adapter is one file. Leave it out.")
    if device != "cpu" and as_adapter:
        raise RecipeError(
            f"--device {device} is for full models; adapters are computed on the processor. Leave it out."
        )
    on = open_accelerator(device)
    if dtype and dtype not in DTYPES:
        raise RecipeError(f"--dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    wanted = read_recipe(recipe)
    wanted = replace(wanted, out_dtype=dtype) if dtype else wanted
    with resolver() as located:
        base, vectors, problems = prepare(wanted, located, None if as_adapter else out, probe)
    tell(problems)
    words = ["dem merge", str(recipe), str(out), *(["--dtype", dtype] if dtype else [])]
    words += ["--device", device] if on else []
    words += [*(["--as-adapter"] if as_adapter else []), *(["--rank", str(rank)] if rank else [])]
    command = " ".join(words)
    final = with_identities(wanted, base, vectors)
    with stage_bars() as progress:
        if as_adapter:
            fit = export_adapter(
                final, base, vectors, out, rank=rank, progress=progress, command=command
            )
        else:
            shard_bytes = round(shard_gb * 1e9)
            export(
                final,
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
        typer.echo(on.report(final.method))
    typer.echo(
        f"{out}: {formula(wanted)}, {sum(file.stat().st_size for file in out.iterdir()) / 1e6:,.1f} MB, verified"
    )


@app.command()
def extract(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="A folder, or a hub id: org/name@revision.")
    ],
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A full fine-tune of the base.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to make; it must not exist.")
    ],
    rank: Annotated[int | None, typer.Option(min=1, help="The rank of the adapter.")] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            help="Instead of a rank: the share of each matrix's ‖Δ‖² to keep, such as 0.9."
        ),
    ] = None,
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings", help="Also token embeddings and head, of a model that keeps them apart."
        ),
    ] = False,
    dtype: Annotated[
        str, typer.Option(help="Of the file: float32 if not given, bfloat16 or float16.")
    ] = "",
    json_file: Json = None,
) -> None:
    """Make a LoRA adapter of a full fine-tune, and report what it misses per layer."""
    from merging import preflight
    from merging.inputs.hub import probe
    from merging.outputs.adapter_extract import extract as extract_adapter
    from workbench.reports import tables

    with resolver() as located:
        opened = preflight(base, [checkpoint], names_of([checkpoint]), locate=located, ask=probe)
    tell(opened.problems)
    stop_on_errors(opened.problems)
    (vector,) = opened.vectors.values()
    options = {"--rank": rank, "--energy": energy, "--dtype": dtype or None}
    given = [f"{option} {value}" for option, value in options.items() if value is not None]
    given += ["--embeddings"] if embeddings else []
    with stage_bars() as progress:
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
            command=" ".join(["dem extract", base, checkpoint, str(out), *given]),
        )
    typer.echo(tables.adapter(fit))
    write_json(
        json_file,
        {
            "base": opened.base.digest,
            "checkpoint": vector.digest,
            "adapter": str(out),
            **fit.as_data(),
        },
    )


@app.command()
def vector(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="A folder, or a hub id: org/name@revision.")
    ],
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A fine-tune, an adapter or a saved vector.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to make; it must not exist.")
    ],
    dtype: Annotated[
        str, typer.Option(help="float32, which is exact, or bfloat16 or float16.")
    ] = "float32",
    minus: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECKPOINT", help="A vector to take away; repeatable."),
    ] = None,
    plus: Annotated[
        list[str] | None, typer.Option(metavar="CHECKPOINT", help="A vector to add; repeatable.")
    ] = None,
) -> None:
    """Save a distribution vector on its own, or an analogy of several: Δ(CHECKPOINT) − Δ(minus) + Δ(plus)."""
    from merging import preflight
    from merging.inputs.hub import probe
    from merging.inputs.saved_vector import SavedVector
    from merging.inputs.vector_arithmetic import Combined
    from merging.outputs.vector_folder import save_vector

    references = [checkpoint, *(minus or []), *(plus or [])]
    with resolver() as located:
        opened = preflight(base, references, names_of(references), locate=located, ask=probe)
    tell(opened.problems)
    stop_on_errors(opened.problems)
    signs = [1.0, *[-1.0] * len(minus or []), *[1.0] * len(plus or [])]
    terms = list(zip(signs, opened.vectors.values(), strict=True))
    words = [f"{'−' if sign < 0 else '+'} Δ{one.name}" for sign, one in terms]
    formula = " ".join(words).removeprefix("+ ")
    with stage_bars() as progress:
        save_vector(
            terms[0][1] if len(terms) == 1 else Combined(formula, terms),
            out,
            dtype=dtype,
            progress=progress,
        )
    facts = SavedVector(out, opened.base).facts
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    exact = "exact" if dtype == "float32" else f"{facts.error:.2%} off"
    typer.echo(f"{out}: {formula}, {dtype}, {exact}, {size:,.1f} MB, verified")


@app.command()
def verify(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An export.")]) -> None:
    """Recompute the manifest of an export."""
    from merging import verify as verify_export

    manifest = verify_export(folder)
    typer.echo(
        f"{folder}: {len(manifest.files)} files, {manifest.nbytes / 1e6:,.1f} MB, all as written"
    )
