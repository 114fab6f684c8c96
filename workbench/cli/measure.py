"""Commands that run a model: losses, benchmarks, statistics."""

from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.app import app
from workbench.cli.shared import (
    Json,
    Target,
    compose,
    is_model,
    ledger_of,
    progress_bar,
    resolver,
    say,
    write_json,
)


@app.command()
def loss(
    target: Target,
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="A folder with <dataset>/<split>.jsonl.")
    ],
    split: Annotated[str, typer.Option(help="Which split to read.")] = "validation",
    limit: Annotated[int | None, typer.Option(min=1, help="Examples per dataset.")] = None,
    json_file: Json = None,
) -> None:
    """Validation loss per dataset, on supervised tokens, with its standard error."""
    from corpus.jsonl import read_datasets
    from evaluation.errors import LoadError
    from evaluation.loss import losses, prepare
    from workbench.reports import tables

    datasets = read_datasets(data, split)
    module, tokenizer, recipe = compose(target)
    if tokenizer is None:
        raise LoadError(
            f"{target} has no tokenizer. Copy the base's tokenizer files into its folder."
        )
    prepared = prepare(datasets, tokenizer, limit=limit)
    for name, count in prepared.dropped.items():
        if count:
            say(
                f"warning: {name}: {count} examples are longer than the model's context and were left out"
            )
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=len(datasets))
        found = []
        for result in losses(module, prepared):
            found.append(result)
            bar.advance(task)
    typer.echo(tables.losses(found))
    write_json(
        json_file,
        {**tables.of(recipe, target), "split": split, "losses": [row._asdict() for row in found]},
    )


@app.command()
def bench(
    target: Target,
    suite: Annotated[
        str, typer.Option(metavar="NAME", help="A suite of local tasks, such as demo.")
    ] = "",
    tasks: Annotated[str, typer.Option(metavar="A,B", help="Tasks of lm-eval by name.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Questions per task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions at once.")] = 32,
    workdir: Annotated[
        Path | None, typer.Option(help="Keep the scores in this workdir's table of runs too.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Benchmark with lm-eval, on the model in memory."""
    from evaluation import harness
    from evaluation.errors import TaskError
    from evaluation.records.meter import measured
    from workbench.jobs import benchmark
    from workbench.reports import tables
    from workbench.session.keys import weights_key
    from workbench.session.runs import keep_scores
    from workbench.session.workdir import Workdir

    if bool(suite) == bool(tasks):
        raise TaskError(
            "give either --suite NAME or --tasks A,B; suites here: " + ", ".join(harness.suites())
        )
    if workdir and is_model(target):
        raise TaskError(
            "--workdir keeps the scores of recipes. Give the recipe.yml of that folder, or leave --workdir out."
        )
    module, tokenizer, recipe = compose(target)
    with progress_bar() as bar:
        task = bar.add_task("benchmark")

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, description=what, completed=done, total=total)

        chosen: Any = suite or [name for name in tasks.split(",") if name]
        with measured(None, "evaluation", "benchmark") as spent:
            scores = harness.run(
                module, tokenizer, chosen, limit=limit, batch_size=batch_size, progress=progress
            )
    typer.echo(tables.scores(scores))
    if workdir and recipe:
        keep_scores(Workdir(workdir), recipe, scores, suite=suite, limit=limit, say=say)
        spent.count(benchmark.examples(scores))
        called = benchmark.Asked(suite, () if suite else tuple(chosen), limit).name
        with ledger_of(workdir) as ledger:
            ledger.add_all([spent.phase("evaluation", called, digest=weights_key(recipe))])
    write_json(
        json_file,
        {
            **tables.of(recipe, target),
            "limit": limit,
            "scores": [score._asdict() for score in scores],
        },
    )


@app.command()
def statistics(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A model, or a hub id: org/name@revision.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to make; it must not exist.")
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="A folder with <dataset>/<split>.jsonl.")
    ],
    kind: Annotated[
        str, typer.Option(help="fisher, for the method of that name, or gram, for regmean.")
    ],
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="The model's own; repeatable.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which split to read.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Examples per dataset.")] = None,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="fisher: of tokens drawn from the model.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="The seed of that draw.")] = 0,
) -> None:
    """Collect a model's statistics on its own data, for the merge methods that weigh models by them."""
    from evaluation.model_statistics import collect_from_folder

    chosen: Any = kind
    names = dataset or ()
    with resolver() as located:
        place = located(folder)
    with progress_bar() as bar:
        task = bar.add_task("collecting")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        made = collect_from_folder(
            place, out, data, chosen, datasets=names, split=split, limit=limit, sampled=sampled, seed=seed,
            progress=progress, say=say,
        )  # fmt: skip
    facts = made.facts
    size = out.stat().st_size / 1e6
    typer.echo(
        f"{out}: {kind} of {len(made.names)} tensors on {', '.join(facts.datasets)}, {facts.examples:,} examples, "
        f"{facts.tokens:,} tokens, {size:,.1f} MB"
    )
