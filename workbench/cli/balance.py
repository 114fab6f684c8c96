"""The commands that ask how much of each domain to train on, and try it on merged models."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from workbench.cli.app import command
from workbench.cli.following import stoppable, watching
from workbench.cli.influence import Workdir, influence_app
from workbench.cli.measure import Limit
from workbench.cli.output import WORKER, Force, Json, Report, event, note, report_to, wrapped
from workbench.cli.shared import RecipeFile, ledger_of, progress_bar, recipe_from, resolver
from workbench.cli.vectors import SeenBy, stated_examples

PLAN = """echo 'base: assets/demo/base
sources: {sni: assets/demo/data/sni, cot: assets/demo/data/cot}
validation: {sni: assets/demo/data/sni}
settings: {steps: 20, batch: 8}
schedule: {kind: mixing}' > plan.yml"""
"""A plan on the data of the demo, for the examples."""

if TYPE_CHECKING:
    from training.plan.plan import Plan
    from workbench.influence_runs.measured_mixture import BalanceRound
    from workbench.influence_runs.mixtures.tried_proposals import TriedProposal


@command(
    "Data",
    PLAN,
    "dem balance plan.yml rounds --rounds 1 --sample 50",
    "dem balance plan.yml rounds --method doremi --method doge --method stratified",
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
    workdir: Workdir = None,
    root: Annotated[list[Path] | None, typer.Option("--root", hidden=True)] = None,
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
    with the lowest mean validation loss. OUT/rounds.json has what is measured so far.
    """
    from corpus.reach import ANYWHERE, Reach
    from influence.curvature.inverse import CurvatureOptions
    from plumbing.atomic import write_whole
    from training.plan.plan_file import plan_yaml, read_plan
    from workbench.influence_runs.balance_rounds import DEFAULT, balance_rounds
    from workbench.influence_runs.data_answers import BALANCED, SO_FAR
    from workbench.influence_runs.ideal_rounds import IdealOptions
    from workbench.reports import influence_tables

    report = report_to(json_file, force)
    options = IdealOptions(
        rounds=rounds, m=m, keep_total=keep_total, centre=centre, layers=layers, keep=keep,
        sample=sample, curvature=CurvatureOptions(estimator=cast(Any, estimator), seed=seed),
    )  # fmt: skip
    # A page names the folders that its plans may read, and asks no hub.
    roots = tuple(each.resolve() for each in root or ())
    read = read_plan(plan, Reach(roots, hub=False) if root else ANYWHERE)

    def on_round(made: Sequence["BalanceRound"]) -> None:
        note(influence_tables.round_line(made[-1]))
        Report(out / SO_FAR).write(influence_tables.rounds_as_data(made))

    def on_training(done: int, total: int) -> None:
        if WORKER.get():
            event(stage={"done": done, "of": total})

    with (
        stoppable() as stop,
        watching(WORKER.get(), stop) as watcher,
        ledger_of(workdir) as ledger,
    ):
        made = balance_rounds(
            read,
            out,
            method or [DEFAULT],
            options,
            watcher,
            ledger=ledger,
            on_round=on_round,
            on_training=on_training,
        )
    # The last one of each method, of which IDEAL alone has several.
    proposals = {each.method: each for each in made[1:]}
    best = min(proposals.values(), key=lambda each: each.mean)
    write_whole(out / BALANCED, plan_yaml(best.mixture))
    report.show(influence_tables.rounds(made))
    report.write({"plan": str(plan), "out": str(out), **influence_tables.rounds_as_data(made)})


@command(
    "Data",
    PLAN,
    "dem influence try assets/demo/recipe.yml plan.yml --shares cot=0.8,sni=0.2",
    "dem influence try assets/demo/recipe.yml plan.yml --shares equal --verify t",
    name="try",
    parent=influence_app,
)
def try_proposals(
    recipe: RecipeFile,
    plans: Annotated[
        list[Path],
        typer.Argument(
            metavar="PLAN...",
            help="Each is a proposal. The first gives validation sets, and trains --shares.",
        ),
    ],
    shares: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A=S,B=S",
            help="A proposal by its shares; or equal, or proportional (repeatable).",
        ),
    ] = None,
    seen: SeenBy = None,
    limit: Limit = None,
    verify: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Train each proposal in this folder, and compare."),
    ] = None,
    workdir: Workdir = None,
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Try mixtures of data on merged models before training any, and order them by loss.

    Each proposal becomes ω of the recipe's vectors; the recipe's own ω do not matter. With --verify
    each is trained from the base too. A command that was interrupted goes on where it was.
    """
    from merging.recipe.fields import unique_name
    from training.plan.plan_file import read_plan
    from workbench.influence_runs.mixtures import tried_proposals
    from workbench.influence_runs.mixtures.proposals import proposals
    from workbench.influence_runs.opened_recipe import open_models
    from workbench.reports import mixture_tables

    report = report_to(json_file, force)
    asked = recipe_from(recipe)
    read: dict[str, Plan] = {}
    for file in plans:
        read[unique_name(file.stem, list(read))] = read_plan(file)
    wanted, experts = proposals(asked, read, shares or (), stated_examples(seen))
    with resolver() as located:
        opened = open_models(asked, located)
    prepared = tried_proposals.validation_sets(opened, list(read.values()), limit)

    def on_trial(made: "TriedProposal") -> None:
        note(mixture_tables.trial_line(made))

    with stoppable() as stop, ledger_of(workdir) as ledger:
        with progress_bar() as bar:
            task = bar.add_task("merged models")
            found = tried_proposals.predict(
                opened,
                wanted,
                prepared,
                ledger=ledger,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
                should_stop=stop,
            )
        if verify is not None:
            with watching(False, stop) as watcher:
                found = tried_proposals.verify(
                    found, verify, prepared, watcher, ledger=ledger, on_trial=on_trial
                )
    report.show(wrapped(mixture_tables.trials(found)))
    report.write(
        {
            "recipe": str(recipe),
            "plans": [str(file) for file in plans],
            "seen": mixture_tables.seen_as_data(experts),
            **mixture_tables.trials_as_data(found),
        }
    )
