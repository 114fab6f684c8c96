"""Commands that look at weights and recipes, and write nothing but a report."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.app import app
from workbench.cli.shared import (
    Json,
    names_of,
    progress_bar,
    resolver,
    stage_bars,
    stop_on_errors,
    tell,
    write_json,
)


@app.command()
def inspect(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="A folder, or a hub id: org/name@revision.")
    ],
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="CHECKPOINT...", help="Folders or hub ids.")
    ],
    vocabulary: Annotated[
        str,
        typer.Option(
            help="Where vocabularies differ: refuse, base or union, as dem.vocabulary of a recipe."
        ),
    ] = "refuse",
    json_file: Json = None,
) -> None:
    """Report every incompatibility, then norms, cosines and distances per layer."""
    from merging import measure, preflight
    from merging.inputs.hub import probe
    from workbench.reports import tables

    with resolver() as located:
        opened = preflight(
            base, checkpoints, names_of(checkpoints), vocabulary, locate=located, ask=probe
        )
    tell(opened.problems)
    geometry = None
    if opened.vectors:
        with progress_bar() as bar:
            task = bar.add_task("reading")
            geometry = measure(
                opened.base,
                opened.vectors,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        typer.echo(tables.geometry(geometry))
    write_json(json_file, tables.inspection(opened, geometry))
    stop_on_errors(opened.problems)


@app.command()
def weights(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe file, in mergekit's YAML.")
    ],
    json_file: Json = None,
) -> None:
    """The ω that each tensor gets from each model, with gradients, filters, include and exclude resolved."""
    from merging import prepare, with_identities
    from merging.engine.tasks import effective_weights
    from merging.inputs.hub import probe
    from merging.recipe import read_recipe
    from workbench.reports import tables

    wanted = read_recipe(recipe)
    with resolver() as located:
        base, vectors, problems = prepare(wanted, located, ask=probe)
    tell(problems)
    table = effective_weights(wanted, base, vectors)
    typer.echo(tables.weights(table))
    write_json(
        json_file,
        {**tables.of(with_identities(wanted, base, vectors), str(recipe)), "weights": table},
    )


@app.command()
def rounding(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe file, in mergekit's YAML.")
    ],
    dtype: Annotated[
        str, typer.Option(help="Measure this output dtype whatever the recipe says.")
    ] = "",
    json_file: Json = None,
) -> None:
    """What the output dtype loses of the merge, per layer, with the advice that follows; nothing is written."""
    from dataclasses import replace

    from merging import prepare, with_identities
    from merging.analysis.rounding_cost import rounding_cost
    from merging.inputs.hub import probe
    from merging.recipe import read_recipe
    from workbench.reports import tables

    wanted = read_recipe(recipe)
    wanted = replace(wanted, out_dtype=dtype) if dtype else wanted
    with resolver() as located:
        base, vectors, problems = prepare(wanted, located, ask=probe)
    tell(problems)
    with stage_bars(in_bytes=False) as progress:
        cost = rounding_cost(
            wanted, base, vectors, lambda done, total: progress("measuring", done, total)
        )
    typer.echo(tables.rounding(cost))
    final = with_identities(wanted, base, vectors)
    write_json(json_file, {**tables.of(final, str(recipe)), **tables.rounding_as_data(cost)})


@app.command()
def methods(json_file: Json = None) -> None:
    """The merge methods with their formulas and parameters."""
    from workbench.reports import tables

    typer.echo(tables.methods())
    write_json(json_file, tables.methods_as_data())
