"""The commands that choose training data by influence: LESS and what it is compared with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbing.units import counted
from workbench.cli.app import app, command
from workbench.cli.following import counting, stoppable, watching
from workbench.cli.help import Verbs
from workbench.cli.output import WORKER, Force, Json, refuse_existing, report_to, say, warn
from workbench.cli.shared import ledger_of, resolver

if TYPE_CHECKING:
    from corpus import Record

influence_app = typer.Typer(help="Which examples of a pool to train on.", cls=Verbs)
app.add_typer(influence_app, name="influence", rich_help_panel="Data")

StudyFolder = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A folder that dem influence warmup made.")
]
Workdir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Keep the cost in this workdir's ledger.")
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="cpu, cuda or cuda:N.")]
Kind = Annotated[
    str, typer.Option(metavar="NAME", help="sgd, adam, sign or adam-less-repo; see the docs.")
]
Targets = Annotated[
    Path,
    typer.Option(metavar="DIR", help="What is wanted: a folder with SUBTASK/SPLIT.jsonl."),
]
Split = Annotated[str, typer.Option(metavar="SPLIT", help="Which split of the targets to read.")]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Examples per subtask (default: all).")
]
Method = Annotated[str, typer.Option(metavar="NAME", help="less, rds, bm25, stratified or random.")]
Centre = Annotated[
    bool, typer.Option("--centre", help="For less: subtract the mean gradient of the pool.")
]
Reading = Annotated[str, typer.Option(metavar="NAME", help="less: mean_of_cos or cos_of_mean.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Of all that is drawn.")]


@command(
    "Data",
    "dem influence warmup assets/demo/base study --data assets/demo/data",
    "dem influence warmup assets/demo/base quick --data assets/demo/data --epochs 1",
    parent=influence_app,
    worker=True,
)
def warmup(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="A folder, or a hub id, org/name@revision.")
    ],
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="The folder of the study; may hold it already.")
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The pool: a folder with SOURCE/SPLIT.jsonl.")
    ],
    split: Annotated[str, typer.Option(metavar="SPLIT", help="Which split is the pool.")] = "train",
    share: Annotated[
        float, typer.Option(metavar="S", help="Share of the pool that is trained on.")
    ] = 0.05,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Passes over it.")] = 4,
    rate: Annotated[float, typer.Option(metavar="R", help="Highest learning rate.")] = 2e-4,
    rank: Annotated[int, typer.Option(metavar="N", min=1, help="Rank of the adapter.")] = 16,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Examples of a step.")] = 32,
    seed: Seed = 0,
    begin_only: Annotated[
        bool,
        typer.Option("--begin-only", help="Train nothing: methods other than less need no more."),
    ] = False,
    workdir: Workdir = None,
) -> None:
    """Begin a study of a pool of data: train an adapter on a random share of it.

    A checkpoint is kept after each pass; gradients are taken there. A command that was interrupted
    goes on where it was. A study that was only begun is trained by the same command without that
    option.
    """
    from workbench.influence_runs.study import WarmUp, begin_study
    from workbench.influence_runs.warm_up import warm_up

    with resolver() as located:
        folder = str(located(base).resolve())
    settings = WarmUp(share, epochs, rate, rank, batch, seed)
    begun, pool = begin_study(study, folder, data, split, settings)
    if begin_only:
        say(f"{study}: a study of {counted(sum(map(len, pool.values())), 'record')}")
        return
    with (
        stoppable() as stop,
        watching(WORKER.get(), stop) as watcher,
        ledger_of(workdir) as ledger,
    ):
        made = warm_up(begun, pool, watcher, ledger)
    say(f"{made.folder}: {epochs} checkpoints in epochs/")


@command(
    "Data",
    "dem influence store study",
    "dem influence store study --kind adam --size 4096",
    parent=influence_app,
    worker=True,
)
def store(
    study: StudyFolder,
    kind: Kind = "sgd",
    size: Annotated[
        int, typer.Option(metavar="D", min=4, help="Numbers that a gradient is projected to.")
    ] = 8192,
    seed: Seed = 0,
    device: Device = "cpu",
    workdir: Workdir = None,
) -> None:
    """Store the projected gradient of each example of the pool at each checkpoint.

    A store that was interrupted goes on where it was. Several processes share the work under
    torchrun --standalone --nproc_per_node N --no_python; with --device cuda each has its own GPU.
    """
    import os

    from influence.gradients.adam_direction import check_kind
    from influence.projection.projector import Projection
    from training.run.launch import process_count
    from workbench.influence_runs.gradient_store import store_gradients
    from workbench.influence_runs.study import open_study

    opened, asked = open_study(study), check_kind(kind)
    process, processes = int(os.environ.get("RANK", "0")), process_count()
    if device == "cuda" and processes > 1:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    with stoppable() as stop, counting("gradients") as progress, ledger_of(workdir) as ledger:
        coverage = store_gradients(
            opened,
            asked,
            Projection(dimension=size, seed=seed),
            device=device,
            process=process,
            processes=processes,
            ledger=ledger,
            progress=progress,
            should_stop=stop,
        )
    # Of several processes, the one that finishes last says that the store is complete.
    if coverage.complete or processes == 1:
        say(coverage.text())


@command(
    "Data",
    "dem influence score study scores.csv --targets assets/demo/data --limit 5",
    "dem influence score study rds.csv --targets assets/demo/data --method rds",
    parent=influence_app,
)
def score(
    study: StudyFolder,
    out: Annotated[Path, typer.Argument(metavar="CSV", help="The file to write.")],
    targets: Targets,
    split: Split = "validation",
    limit: Limit = None,
    method: Method = "less",
    kind: Kind = "sgd",
    centre: Centre = False,
    seed: Seed = 0,
    device: Device = "cpu",
    workdir: Workdir = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Score each example of the pool for each validation example, as a table in a file."""
    from influence.csv_tables import cell, csv_table
    from influence.gradients.adam_direction import check_kind
    from plumbing.atomic import write_whole
    from workbench.influence_runs.selecting import Question, scored
    from workbench.influence_runs.study import open_study

    refuse_existing(out, force)
    asked: Any = method  # Question refuses what is none
    question = Question(asked, check_kind(kind), centre=centre, seed=seed)
    wanted = _targets(targets, split, limit)
    opened = open_study(study)
    with stoppable() as stop, counting("scores") as progress, ledger_of(workdir) as ledger:
        pool, _, scores = scored(
            opened,
            wanted,
            question,
            device=device,
            ledger=ledger,
            progress=progress,
            should_stop=stop,
        )
    rows = [
        [cell(each.source), each.number, *(f"{value:.6g}" for value in row)]
        for each, row in zip(pool.examples, scores.values.tolist(), strict=True)
    ]
    write_whole(out, csv_table(["source", "number", *scores.queries], rows))
    typer.echo(f"{out}: {scores.method}, {len(pool):,} examples × {len(scores.queries):,}")


@command(
    "Data",
    "dem influence select study best.selection.json --targets assets/demo/data",
    "dem influence select study b.selection.json --targets wanted --method rds",
    parent=influence_app,
    worker=True,
)
def select(
    study: StudyFolder,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="NAME.selection.json, which a plan takes as a source."),
    ],
    targets: Targets,
    split: Split = "validation",
    limit: Limit = None,
    method: Method = "less",
    kind: Kind = "sgd",
    centre: Centre = False,
    policy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="round_robin: validation examples take turns; max or mean over subtasks.",
        ),
    ] = "round_robin",
    reading: Reading = "mean_of_cos",
    share: Annotated[
        float, typer.Option(metavar="S", help="Share of the pool that is chosen.")
    ] = 0.05,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many, in place of a share.")
    ] = None,
    unit: Annotated[
        str, typer.Option(metavar="UNIT", help="What counts: examples, supervised or tokens.")
    ] = "examples",
    cap: Annotated[
        float | None, typer.Option(metavar="S", help="The most of the budget that a source gives.")
    ] = None,
    copies: Annotated[
        str, typer.Option(metavar="WHICH", help="Texts chosen once only: exact, near or none.")
    ] = "exact",
    seed: Seed = 0,
    device: Device = "cpu",
    workdir: Workdir = None,
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Choose examples of the pool for the targets, and say why each was chosen.

    OUT is a source for dem train. Beside it is the same as CSV. The methods other than less need no
    store: compare with them.
    """
    from dataclasses import asdict

    from influence.gradients.adam_direction import check_kind
    from influence.selection.budget import Budget
    from workbench.influence_runs.selecting import Question, ask
    from workbench.influence_runs.study import open_study
    from workbench.reports import influence_tables

    report = report_to(json_file, force)
    # The names that are none are refused where they are used.
    named: Any = {
        "method": method,
        "policy": policy,
        "reading": reading,
        "copies": None if copies == "none" else copies,
    }
    counted: Any = unit
    budget = Budget(share if count is None else count, counted, cap)
    question = Question(kind=check_kind(kind), centre=centre, budget=budget, seed=seed, **named)
    opened, wanted = open_study(study), _targets(targets, split, limit)
    with stoppable() as stop, counting("scores") as progress, ledger_of(workdir) as ledger:
        answer = ask(
            opened,
            wanted,
            question,
            device=device,
            ledger=ledger,
            progress=progress,
            should_stop=stop,
        )
    if answer.overlap:
        warn(answer.overlap)
    answer.write(out, opened)
    report.show(influence_tables.choice(answer.reasons))
    report.write({"selection": str(out), "study": str(study), **asdict(answer.reasons)})


def _targets(folder: Path, split: str, limit: int | None) -> "dict[str, list[Record]]":
    """Read the first examples of each subtask."""
    from corpus import read_datasets

    return {name: records[:limit] for name, records in read_datasets(folder, split).items()}
