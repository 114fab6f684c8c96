"""Commands that look at weights and recipes, and write nothing but a report."""

from typing import Annotated

import typer

from workbench.cli.app import command
from workbench.cli.output import Force, Json, report_to, wrapped
from workbench.cli.shared import (
    Base,
    RecipeFile,
    dtype_option,
    names_of,
    progress_bar,
    recipe_from,
    resolver,
    stage_bars,
    stop_on_errors,
    tell,
)


@command(
    "Inspect",
    "dem inspect assets/demo/base assets/demo/cot assets/demo/sni",
    "dem inspect assets/demo/base assets/demo/cot --json -",
)
def inspect(
    base: Base,
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="CHECKPOINT...", help="Folders or hub ids.")
    ],
    vocabulary: Annotated[
        str,
        typer.Option(
            metavar="CHOICE",
            help="If vocabularies differ: refuse, base or union, as dem.vocabulary of a recipe.",
        ),
    ] = "refuse",
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Report every incompatibility, then norms, cosines and distances per layer."""
    from merging import measure, preflight
    from merging.inputs.hub import probe
    from workbench.reports import tables

    report = report_to(json_file, force)
    with resolver() as located:
        opened = preflight(
            base, checkpoints, names_of(checkpoints), vocabulary, locate=located, probe=probe
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
        report.show(tables.geometry(geometry))
    report.show(tables.verdict(opened))
    if report.wanted:
        report.write(tables.inspection(opened, geometry))
    stop_on_errors(opened.problems)


@command(
    "Inspect",
    "dem weights assets/demo/recipe.yml",
    "dem weights assets/demo/recipe.yml --json -",
)
def weights(recipe: RecipeFile, json_file: Json = None, force: Force = False) -> None:
    """Show the ω that each tensor gets from each model.

    Gradients, filters, include and exclude are resolved.
    """
    from merging import prepare, with_identities
    from merging.engine.tasks import effective_weights
    from merging.inputs.hub import probe
    from workbench.reports import tables

    report = report_to(json_file, force)
    wanted = recipe_from(recipe)
    with resolver() as located:
        # Digests cover all weights, which nothing else here reads.
        base, vectors, problems = prepare(wanted, located, probe=probe, check_inputs=report.wanted)
    tell(problems)
    table = effective_weights(wanted, base, vectors)
    report.show(tables.weights(table))
    if report.wanted:
        final = with_identities(wanted, base, vectors)
        report.write({**tables.of(final, str(recipe)), "weights": table})


@command(
    "Inspect",
    "dem rounding assets/demo/recipe.yml",
    "dem rounding assets/demo/recipe.yml --dtype bfloat16",
)
def rounding(
    recipe: RecipeFile,
    dtype: Annotated[
        str,
        dtype_option("Output dtype: float32, bfloat16 or float16; overrides the recipe."),
    ] = "",
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Show what the output dtype loses of the merge, per layer, and what to do about it.

    No model is written.
    """
    from dataclasses import replace

    from merging import prepare, with_identities
    from merging.analysis.rounding_cost import rounding_cost
    from merging.engine.identities import check_identities, gather
    from merging.inputs.hub import probe
    from workbench.reports import tables

    report = report_to(json_file, force)
    wanted = recipe_from(recipe)
    wanted = replace(wanted, out_dtype=dtype) if dtype else wanted
    with resolver() as located:
        base, vectors, problems = prepare(wanted, located, probe=probe, check_inputs=False)
    tell(problems)
    if report.wanted or wanted.inputs:
        gather([base, *vectors.values()])
    with stage_bars(in_bytes=False) as progress:
        cost = rounding_cost(
            wanted, base, vectors, lambda done, total: progress("measuring", done, total)
        )
    check_identities(wanted, base, vectors)
    report.show(tables.rounding(cost))
    if report.wanted:
        final = with_identities(wanted, base, vectors)
        report.write({**tables.of(final, str(recipe)), **tables.rounding_as_data(cost)})


@command("Inspect", "dem methods", "dem methods --json -")
def methods(json_file: Json = None, force: Force = False) -> None:
    """List the merge methods with their formulas and parameters."""
    from workbench.reports import tables

    report = report_to(json_file, force)
    report.show(wrapped(tables.methods()))
    report.write(tables.methods_as_data())
