"""The command that asks how much of each domain to train on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from workbench.cli.app import command
from workbench.cli.following import stoppable, watching
from workbench.cli.output import Force, Json, note, report_to
from workbench.cli.shared import ledger_of

BALANCED = "balanced.yml"
"""The plan of the proposed mixture, in the folder of the trainings."""

if TYPE_CHECKING:
    from workbench.influence_runs.measured_mixture import BalanceRound


@command(
    "Data",
    """echo 'base: assets/demo/base
sources: {sni: assets/demo/data/sni, cot: assets/demo/data/cot}
validation: {sni: assets/demo/data/sni}
settings: {steps: 20, batch: 8}
schedule: {kind: mixing}' > plan.yml""",
    "dem balance plan.yml rounds --rounds 1 --sample 50",
    "dem balance plan.yml rounds --method doremi --method doge --method stratified",
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
        Path,
        typer.Argument(metavar="OUT", help="The folder of the trainings; may hold some already."),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="ideal (if not given), doremi, doge, or stratified: an equal share; repeatable.",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="IDEAL: how often the domains are resized.")
    ] = 2,
    m: Annotated[
        float, typer.Option("--m", metavar="M", help="IDEAL: the most a domain changes in a round.")
    ] = 0.15,
    keep_total: Annotated[
        bool, typer.Option("--keep-total", help="IDEAL: keep the number of examples.")
    ] = False,
    centre: Annotated[
        bool,
        typer.Option("--centre", help="IDEAL: count each domain relative to all data."),
    ] = False,
    estimator: Annotated[
        str,
        typer.Option(metavar="NAME", help="IDEAL's curvature: ekfac, kfac, exact, identity."),
    ] = "ekfac",
    layers: Annotated[
        str, typer.Option(metavar="WHICH", help="IDEAL's layers: mlp, all, or a pattern.")
    ] = "mlp",
    keep: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="IDEAL: only the N layers of steadiest curvature."),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="IDEAL: examples of each set for the influence."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="IDEAL: of what is drawn.")] = 0,
    workdir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the cost in this workdir's ledger.")
    ] = None,
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Propose how much of each domain to train on, and train and measure each proposal.

    IDEAL resizes the domains in rounds by their influence on the plan's validation sets. DoReMi
    gives more to domains on which a proxy lags behind a model trained on the plan's own mixture;
    DOGE to those whose gradients point where those of the validation sets point. All are compared
    with the plan's own mixture, each domain as it is. A command that was interrupted goes on where
    it was, but for a proxy, which begins anew.

    The proposal is written to OUT/balanced.yml, a plan for dem train; of several methods, the one
    with the lowest mean validation loss.
    """
    from influence.curvature.inverse import CurvatureOptions
    from plumbing.atomic import write_whole
    from training.plan.plan_file import plan_yaml, read_plan
    from workbench.influence_runs.balance_rounds import balance_rounds
    from workbench.influence_runs.ideal_rounds import IdealOptions
    from workbench.reports import influence_tables

    report = report_to(json_file, force)
    options = IdealOptions(
        rounds=rounds, m=m, keep_total=keep_total, centre=centre, layers=layers, keep=keep,
        sample=sample, curvature=CurvatureOptions(estimator=cast(Any, estimator), seed=seed),
    )  # fmt: skip
    read = read_plan(plan)

    def on_round(made: "BalanceRound") -> None:
        note(influence_tables.round_line(made))

    with stoppable() as stop, watching(False, stop) as watcher, ledger_of(workdir) as ledger:
        made = balance_rounds(
            read, out, method or ["ideal"], options, watcher, ledger=ledger, on_round=on_round
        )
    # The last one of each method, of which IDEAL alone has several.
    proposals = {each.method: each for each in made[1:]}
    best = min(proposals.values(), key=lambda each: each.mean)
    write_whole(out / BALANCED, plan_yaml(best.mixture))
    report.show(influence_tables.rounds(made))
    report.write({"plan": str(plan), "out": str(out), **influence_tables.rounds_as_data(made)})
