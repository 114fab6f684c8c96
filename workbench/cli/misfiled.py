"""The command that looks for training examples in the wrong dataset, or with wrong answers."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.app import command
from workbench.cli.following import counting, stoppable
from workbench.cli.output import Force, Json, refuse_existing, report_to
from workbench.cli.shared import RecipeFile, ledger_of, recipe_from


@command(
    "Data",
    "dem misfiled assets/demo/recipe.yml --data assets/demo/data --limit 20",
    "dem misfiled assets/demo/recipe.yml --data assets/demo/data --out suspects.csv",
    worker=True,
)
def misfiled(
    recipe: RecipeFile,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="What the experts were trained on: DATASET/SPLIT.jsonl by their names.",
        ),
    ],
    split: Annotated[str, typer.Option(metavar="SPLIT", help="Which split to read.")] = "train",
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Examples per dataset (default: all).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write all examples, most suspicious first.")
    ] = None,
    workdir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the cost in this workdir's ledger.")
    ] = None,
    json_file: Json = None,
    force: Force = False,
) -> None:
    """List training examples that may be misfiled: of another dataset, or with a wrong answer.

    An example is suspicious if its own expert has a high loss on it, or if another expert has a
    lower one. Each is compared with its own dataset only.
    """
    from corpus import read_datasets
    from plumbing.atomic import write_whole
    from workbench.influence_runs.misfiled_run import find_misfiled, suspects_csv
    from workbench.reports import influence_tables

    report = report_to(json_file, force)
    if out is not None:
        refuse_existing(out, force)
    read = {name: records[:limit] for name, records in read_datasets(data, split).items()}
    with stoppable() as stop, counting("passes") as progress, ledger_of(workdir) as ledger:
        found = find_misfiled(
            recipe_from(recipe),
            read,
            ledger=ledger,
            progress=progress,
            should_stop=stop,
        )
    if out is not None:
        write_whole(out, suspects_csv(found))
    report.show(influence_tables.suspects(found))
    report.write(
        {"recipe": str(recipe), "split": split, "suspects": [each._asdict() for each in found]}
    )
