"""The commands that ask vectors about data: what they help, their mixture, misfiled examples."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.app import command
from workbench.cli.following import counting, stoppable
from workbench.cli.influence import Workdir, influence_app
from workbench.cli.measure import Limit
from workbench.cli.output import Force, Json, refuse_existing, report_to, wrapped
from workbench.cli.shared import RecipeFile, ledger_of, progress_bar, recipe_from, resolver

PlanFile = Annotated[
    Path,
    typer.Argument(metavar="PLAN", help="A plan; its sources have the names of the vectors."),
]
SeenBy = Annotated[
    list[str] | None,
    typer.Option(
        "--seen",
        metavar="NAME=N,…",
        help="Examples that an expert has seen, if no training.json beside it says so.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]
NewFile = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")]
FIVE = """echo 'base: assets/demo/base
sources:
  cot: assets/demo/data/cot
  mathqa: assets/demo/data/mathqa
  p3: assets/demo/data/p3
  sni: assets/demo/data/sni
  dialog: assets/demo/data/dialog
settings: {steps: 5, batch: 8}
schedule: {kind: mixing}' > five.yml"""
"""A plan on the data of the demo, for the examples."""


@command(
    "Data",
    "dem influence vectors assets/demo/recipe.yml --data assets/demo/data --limit 9",
    "dem influence vectors assets/demo/recipe.yml --data assets/demo/data --out v",
    parent=influence_app,
)
def vectors(
    recipe: RecipeFile,
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="What should improve: DATASET/SPLIT.jsonl."),
    ],
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="Which split of it to read.")
    ] = "validation",
    limit: Limit = None,
    at: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="Ask at a model trained from the base, as on a mixture, not at the recipe's.",
        ),
    ] = "",
    domains: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The vectors' training data, VECTOR/train.jsonl: compare with EK-FAC of it.",
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="Examples of each set for EK-FAC (default: all)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write what helps each example.")
    ] = None,
    workdir: Workdir = None,
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Say which vector helps which validation set, and which validation example.

    For each loss its derivative along each vector, at the composition of the recipe: what a little
    more of the vector would do. For decisions about data give --at a model trained on a mixture.
    """
    from corpus import read_datasets
    from plumbing.atomic import write_whole
    from workbench.errors import SessionError
    from workbench.influence_runs.opened_recipe import open_models
    from workbench.influence_runs.vector_table import examples_csv, vector_table
    from workbench.reports import vector_tables

    report = report_to(json_file, force)
    if out is not None:
        refuse_existing(out, force)
    if sample is not None and domains is None:
        raise SessionError("--sample is for EK-FAC. Give --domains too, or leave it out.")
    read = {name: records[:limit] for name, records in read_datasets(data, split).items()}
    trained = None if domains is None else read_datasets(domains, "train")
    with resolver() as located:
        opened = open_models(recipe_from(recipe), located)
        folder = located(at) if at else None
    with stoppable() as stop, progress_bar() as bar, ledger_of(workdir) as ledger:
        task = bar.add_task("gradients")
        found = vector_table(
            opened,
            read,
            at=folder,
            domains=trained,
            sample=sample,
            ledger=ledger,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            should_stop=stop,
        )
    if out is not None:
        write_whole(out, examples_csv(found))
    report.show(wrapped(vector_tables.vectors(found)))
    named = {"recipe": str(recipe), "at": at or None, "split": split}
    report.write({**named, **vector_tables.vectors_as_data(found)})


@command(
    "Data",
    FIVE,
    "dem influence mixture assets/demo/recipe.yml five.yml mixed.yml",
    "dem influence mixture assets/demo/recipe.yml five.yml m.yml --equal-cost",
    parent=influence_app,
)
def mixture(
    recipe: RecipeFile,
    plan: PlanFile,
    out: NewFile,
    equal_cost: Annotated[
        bool,
        typer.Option("--equal-cost", help="As many examples as all experts saw together."),
    ] = False,
    seen: SeenBy = None,
    json_file: Json = None,
    force: Overwrite = False,
) -> None:
    """Turn the ω of a recipe into proportions of data, as a plan for dem train.

    An expert that saw E examples adds ω E of them: to first order the mixture moves the model as
    the merge does. dem influence omega goes the other way.
    """
    from plumbing.atomic import write_whole
    from training.plan.plan_file import plan_yaml, read_plan
    from workbench.influence_runs.mixtures.mixture_plans import mixture_plan
    from workbench.reports import mixture_tables

    report = report_to(json_file, force)
    refuse_existing(out, force)
    made = mixture_plan(
        recipe_from(recipe), read_plan(plan), stated_examples(seen), equal_cost=equal_cost
    )
    write_whole(out, plan_yaml(made.plan))
    report.show(wrapped(mixture_tables.mixture(made)))
    report.write(
        {
            "plan": str(out),
            "omegas": dict(made.omegas),
            "seen": mixture_tables.seen_as_data(made.seen),
            "shares": dict(made.shares),
            "examples": dict(made.counts),
            "left_out": list(made.left_out),
        }
    )


@command(
    "Data",
    FIVE,
    "dem influence omega assets/demo/recipe.yml five.yml merged.yml",
    "dem influence omega assets/demo/recipe.yml five.yml o.yml --json o.json",
    parent=influence_app,
)
def omega(
    recipe: RecipeFile,
    plan: PlanFile,
    out: NewFile,
    seen: SeenBy = None,
    json_file: Json = None,
    force: Overwrite = False,
) -> None:
    """Turn the mixture of a plan into ω of the recipe's vectors, as a recipe.

    The plan may be of any schedule that ends in one model, and its sources may be selections.
    """
    from merging import recipe_yaml
    from plumbing.atomic import write_whole
    from training.plan.plan_file import read_plan
    from workbench.influence_runs.mixtures.mixture_plans import mixture_recipe
    from workbench.reports import mixture_tables

    report = report_to(json_file, force)
    refuse_existing(out, force)
    made = mixture_recipe(recipe_from(recipe), read_plan(plan), stated_examples(seen))
    write_whole(out, recipe_yaml(made.recipe))
    report.show(wrapped(mixture_tables.omegas(made)))
    report.write(
        {
            "recipe": str(out),
            "omegas": dict(made.omegas),
            "seen": mixture_tables.seen_as_data(made.seen),
            "examples": dict(made.amounts),
        }
    )


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


def stated_examples(stated: list[str] | None) -> dict[str, float]:
    """Read --seen; a name that comes twice counts as it came last."""
    from workbench.influence_runs.mixtures.proposals import named_numbers

    read: dict[str, float] = {}
    for text in stated or ():
        read |= named_numbers(text, "--seen")
    return read
