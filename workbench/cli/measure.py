"""Commands that run a model: losses, benchmarks, statistics."""

from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.app import command
from workbench.cli.output import Force, Json, note, report_to, warn
from workbench.cli.shared import (
    Target,
    compose,
    is_model,
    ledger_of,
    progress_bar,
    resolver,
)

Data = Annotated[
    Path, typer.Option(metavar="DIR", help="A folder with DATASET/SPLIT.jsonl for each dataset.")
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Examples per dataset (default: all).")
]


@command(
    "Measure",
    "dem loss assets/demo/recipe.yml --data assets/demo/data",
    "dem loss assets/demo/base --data assets/demo/data --limit 20 --json -",
)
def loss(
    target: Target,
    data: Data,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="Which split to read.")
    ] = "validation",
    limit: Limit = None,
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Measure the loss per dataset on supervised tokens, with its standard error."""
    from corpus.jsonl import read_datasets
    from evaluation.errors import LoadError
    from evaluation.loss import losses
    from evaluation.prepared import prepare
    from workbench.reports import tables

    report = report_to(json_file, force)
    datasets = read_datasets(data, split)
    module, tokenizer, recipe = compose(target)
    if tokenizer is None:
        raise LoadError(
            f"{target} has no tokenizer. Copy the base model's tokenizer files into it."
        )
    prepared = prepare(datasets, tokenizer, limit=limit)
    for name, count in prepared.dropped.items():
        if count:
            warn(f"{name}: {count} examples are longer than the model's context and were left out")
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=len(datasets))
        results = []
        for result in losses(module, prepared):
            results.append(result)
            bar.advance(task)
    report.show(tables.losses(results))
    rows = [row._asdict() for row in results]
    report.write({**tables.of(recipe, target), "split": split, "losses": rows})


@command(
    "Measure",
    "dem bench assets/demo/recipe.yml --suite demo --limit 20",
    "dem bench assets/demo/cot --tasks demo_cot,demo_sni --limit 20",
)
def bench(
    target: Target,
    suite: Annotated[
        str, typer.Option(metavar="NAME", help="A suite of local tasks, such as demo.")
    ] = "",
    tasks: Annotated[str, typer.Option(metavar="A,B", help="Tasks of lm-eval by name.")] = "",
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Questions per task (default: all).")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Questions at once.")] = 32,
    workdir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the scores in this workdir's table of runs too."),
    ] = None,
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Benchmark a model or a recipe with lm-eval, on the model in memory."""
    from evaluation import harness
    from evaluation.benchmark_scores import count_examples
    from evaluation.errors import TaskError
    from evaluation.records.meter import measured
    from workbench.jobs import benchmark
    from workbench.reports import tables
    from workbench.session.keys import weights_key
    from workbench.session.runs import keep_scores
    from workbench.session.workdir import Workdir

    report = report_to(json_file, force)
    if bool(suite) == bool(tasks):
        raise TaskError(
            "give either --suite NAME or --tasks A,B; suites here: " + ", ".join(harness.suites())
        )
    if workdir and is_model(target):
        raise TaskError(
            "--workdir keeps the scores of recipes. Give the recipe.yml of that folder, or leave "
            "--workdir out."
        )
    chosen: Any = suite or [name for name in tasks.split(",") if name]
    # Before the model is loaded: a task whose data cannot be had is refused at once.
    harness.check(chosen)
    module, tokenizer, recipe = compose(target)
    with progress_bar() as bar:
        task = bar.add_task("benchmark")

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, description=what, completed=done, total=total)

        with measured(None, "evaluation", "benchmark") as spent:
            scores = harness.run(
                module, tokenizer, chosen, limit=limit, batch_size=batch_size, progress=progress
            )
    report.show(tables.scores(scores))
    if workdir and recipe:
        keep_scores(Workdir(workdir), recipe, scores, suite=suite, limit=limit, say=warn)
        spent.count(count_examples(scores))
        called = benchmark.BenchmarkRequest(suite, () if suite else tuple(chosen), limit).name
        with ledger_of(workdir) as ledger:
            ledger.add_all([spent.phase("evaluation", called, digest=weights_key(recipe))])
    rows = [score._asdict() for score in scores]
    report.write({**tables.of(recipe, target), "limit": limit, "scores": rows})


@command(
    "Measure",
    "dem statistics assets/demo/cot cot.gram --data assets/demo/data --kind gram",
    "dem statistics assets/demo/sni sni.fi --data assets/demo/data --kind fisher",
)
def statistics(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A model, or a hub id, org/name@revision.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to make; it must not exist.")
    ],
    data: Data,
    kind: Annotated[
        str,
        typer.Option(
            metavar="KIND", help="fisher, for the method fisher, or gram, for the method regmean."
        ),
    ],
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Use only this dataset of --data (repeatable; default: all)."
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="SPLIT", help="Which split to read.")] = "train",
    limit: Limit = None,
    sampled: Annotated[
        bool,
        typer.Option(
            "--sampled",
            help="For --kind fisher: sample the labels from the model instead of using the data's.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The seed of --sampled.")] = 0,
) -> None:
    """Collect a model's statistics on its own data, for the methods fisher and regmean."""
    from evaluation.model_statistics import collect_from_folder

    collected: Any = kind
    names = dataset or ()
    with resolver() as located:
        model = located(folder)
    with progress_bar() as bar:
        task = bar.add_task("collecting")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        made = collect_from_folder(
            model, out, data, collected, datasets=names, split=split, limit=limit,
            sampled=sampled, seed=seed, progress=progress, say=note,
        )  # fmt: skip
    facts = made.facts
    size = out.stat().st_size / 1e6
    typer.echo(
        f"{out}: {kind} of {len(made.names)} tensors on {', '.join(facts.datasets)}, "
        f"{facts.examples:,} examples, {facts.tokens:,} tokens, {size:,.1f} MB"
    )
