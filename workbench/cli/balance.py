"""The command that asks how much of each domain to train on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from workbench.cli.app import command
from workbench.cli.following import stoppable, watching
from workbench.cli.output import WORKER, Force, Json, event, note, report_to
from workbench.cli.shared import ledger_of

BALANCED = "balanced.yml"
"""The plan of the last mixture, in the folder of the rounds."""

if TYPE_CHECKING:
    from workbench.influence_runs.balance_rounds import BalanceRound


@command(
    "Data",
    """echo 'base: assets/demo/base
sources: {sni: assets/demo/data/sni, cot: assets/demo/data/cot}
validation: {sni: assets/demo/data/sni}
settings: {steps: 20, batch: 8}
schedule: {kind: mixing}' > plan.yml""",
    "dem balance plan.yml rounds --rounds 1 --sample 50",
    "dem balance plan.yml other --rounds 1 --estimator identity --sample 50",
    worker=True,
)
def balance(
    plan: Annotated[
        Path,
        typer.Argument(
            metavar="PLAN",
            help="A plan: its sources are the domains, its validation sets what is to improve.",
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder of the rounds; may hold some already.")
    ],
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="How often the domains are resized.")
    ] = 2,
    m: Annotated[
        float, typer.Option("--m", metavar="M", help="The largest change of a domain in a round.")
    ] = 0.15,
    keep_total: Annotated[
        bool, typer.Option("--keep-total", help="Keep the number of examples.")
    ] = False,
    centre: Annotated[
        bool,
        typer.Option("--centre", help="Count each domain relative to all of the training data."),
    ] = False,
    estimator: Annotated[
        str,
        typer.Option(metavar="NAME", help="The inverse curvature: ekfac, kfac, exact, identity."),
    ] = "ekfac",
    layers: Annotated[
        str, typer.Option(metavar="WHICH", help="Layers that count: mlp, all, or a pattern.")
    ] = "mlp",
    keep: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Only the N layers of steadiest curvature."),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="Examples of each set for the influence."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of what is drawn.")] = 0,
    workdir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the cost in this workdir's ledger.")
    ] = None,
    root: Annotated[list[Path] | None, typer.Option("--root", hidden=True)] = None,
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Resize the domains of a plan by their influence on its validation sets (IDEAL).

    Each round trains the mixture from the base, computes what more of each domain would do to the
    validation losses, and resizes. A command that was interrupted goes on where it was.

    The last mixture is written to OUT/balanced.yml, a plan for dem train.
    """
    from corpus.reach import ANYWHERE, Reach
    from influence.curvature.inverse import CurvatureOptions
    from plumbing.atomic import write_whole
    from training.plan.plan_file import plan_yaml, read_plan
    from workbench.influence_runs.balance_rounds import BalanceOptions, balance_rounds
    from workbench.reports import influence_tables

    report = report_to(json_file, force)
    options = BalanceOptions(
        rounds=rounds, m=m, keep_total=keep_total, centre=centre, layers=layers, keep=keep,
        sample=sample, curvature=CurvatureOptions(estimator=cast(Any, estimator), seed=seed),
    )  # fmt: skip
    # A page names the folders that its plans may read, and asks no hub.
    roots = tuple(each.resolve() for each in root or ())
    read = read_plan(plan, Reach(roots, hub=False) if root else ANYWHERE)

    def on_round(made: "BalanceRound") -> None:
        note(influence_tables.round_line(made))
        if WORKER.get():
            event(stage={"done": made.number + 1, "of": rounds + 1})

    if WORKER.get():
        event(stage={"done": 0, "of": rounds + 1})
    with (
        stoppable() as stop,
        watching(WORKER.get(), stop) as watcher,
        ledger_of(workdir) as ledger,
    ):
        made = balance_rounds(read, out, options, watcher, ledger=ledger, on_round=on_round)
    write_whole(out / BALANCED, plan_yaml(made[-1].mixture))
    report.show(influence_tables.rounds(made))
    report.write({"plan": str(plan), "out": str(out), **influence_tables.rounds_as_data(made)})
