"""`dem`: the verbs of the page as commands. Wrong input ends with code 2 and one message, and nothing is written.

Heavy imports stand inside the commands, so that `dem --help` answers at once.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from merging import Checkpoint, Recipe, Vector

# Before torch is imported: two threads that spin while a third process works cost ten times the time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="dem",
    help="Compose, measure and export distribution-edited models: Θ + Σ ωᵢ Δᵢ.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
demo_app = typer.Typer(help="The demo that ships with the project.", no_args_is_help=True)
app.add_typer(demo_app, name="demo")

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON too.")]
Target = Annotated[str, typer.Argument(metavar="RECIPE|FOLDER", help="A recipe file, or the folder of a model.")]


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
    workdir: Annotated[Path, typer.Option(help="Where runs, jobs, recipes and exports are kept.")] = Path("workdir"),
    models: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="A folder whose models may be opened; repeatable.")
    ] = None,
    auth: Annotated[str, typer.Option(metavar="USER:PASSWORD", help="Needed for any host but this machine.")] = "",
    demo: Annotated[bool, typer.Option(help="Open with the demo.")] = True,
) -> None:
    """Open the page."""
    from workbench.page import serve

    serve(host=host, port=port, workdir=workdir, models=models or [], auth=auth, demo=demo)


@app.command()
def inspect(
    base: Annotated[Path, typer.Argument(metavar="BASE")],
    checkpoints: Annotated[list[Path], typer.Argument(metavar="CHECKPOINT...")],
    json_file: Json = None,
) -> None:
    """Report every incompatibility, then norms, cosines and distances per layer."""
    from merging import measure, preflight
    from workbench import report

    names = _names(checkpoints)
    opened = preflight(base, checkpoints, names)
    for problem in opened.problems:
        _say(f"{problem.severity}: {problem.message}")
    geometry = None
    if opened.vectors:
        with _progress() as bar:
            task = bar.add_task("reading")
            geometry = measure(
                opened.base, opened.vectors, lambda done, total: bar.update(task, completed=done, total=total)
            )
        typer.echo(report.geometry(geometry))
    _write_json(json_file, report.inspection(opened, geometry))
    if any(problem.severity == "error" for problem in opened.problems):
        raise typer.Exit(2)


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file, in mergekit's YAML.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make; it must not exist.")],
    dtype: Annotated[str, typer.Option(help="Write float32, bfloat16 or float16 whatever the recipe says.")] = "",
    shard_gb: Annotated[float, typer.Option(help="The most gigabytes of weights in one file.", min=1e-6)] = 5.0,
    device: Annotated[str, typer.Option(help="Where to compute.")] = "cpu",
) -> None:
    """Merge and export; ends with code 0 only when the folder is complete and verified."""
    from dataclasses import replace

    from merging import Recipe, check, export, open_recipe
    from merging.errors import RecipeError
    from merging.recipe import DTYPES

    if device != "cpu":
        raise RecipeError(
            f"--device {device!r} is not available; this version merges on 'cpu', at the speed of the disk."
        )
    if dtype and dtype not in DTYPES:
        raise RecipeError(f"--dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    wanted = Recipe.read(recipe)
    wanted = replace(wanted, out_dtype=dtype) if dtype else wanted
    base, vectors = open_recipe(wanted)
    for problem in check(wanted, base, vectors):
        _say(f"warning: {problem.message}")
    command = " ".join(["dem merge", str(recipe), str(out), *(["--dtype", dtype] if dtype else [])])
    with _progress() as bar:
        rows: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in rows:
                rows[stage] = bar.add_task(stage)
            bar.update(rows[stage], completed=done, total=total)

        export(
            _identified(wanted, base, vectors),
            base,
            vectors,
            out,
            shard_bytes=round(shard_gb * 1e9),
            progress=progress,
            command=command,
        )
    typer.echo(
        f"{out}: {wanted.formula()}, {sum(file.stat().st_size for file in out.iterdir()) / 1e6:,.1f} MB, verified"
    )


@app.command()
def verify(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An export.")]) -> None:
    """Recompute the manifest of an export."""
    from merging import verify as verify_export

    manifest = verify_export(folder)
    typer.echo(f"{folder}: {len(manifest.files)} files, {manifest.nbytes / 1e6:,.1f} MB, all as written")


@app.command()
def loss(
    target: Target,
    data: Annotated[Path, typer.Option(metavar="DIR", help="A folder with <dataset>/<split>.jsonl.")],
    split: Annotated[str, typer.Option(help="Which split to read.")] = "validation",
    limit: Annotated[int | None, typer.Option(min=1, help="Examples per dataset.")] = None,
    json_file: Json = None,
) -> None:
    """Validation loss per dataset, on supervised tokens, with its standard error."""
    from corpus.sources import read_datasets
    from evaluation.errors import LoadError
    from evaluation.loss import losses, prepare
    from workbench import report

    datasets = read_datasets(data, split)
    module, tokenizer, recipe = _compose(target)
    if tokenizer is None:
        raise LoadError(f"{target} has no tokenizer. Copy the base's tokenizer files into its folder.")
    prepared = prepare(datasets, tokenizer, limit=limit)
    for name, count in prepared.dropped.items():
        if count:
            _say(f"warning: {name}: {count} examples are longer than the model's context and were left out")
    with _progress() as bar:
        task = bar.add_task("measuring", total=len(datasets))
        found = []
        for result in losses(module, prepared):
            found.append(result)
            bar.advance(task)
    typer.echo(report.losses(found))
    _write_json(json_file, {**report.of(recipe, target), "split": split, "losses": [row._asdict() for row in found]})


@app.command()
def bench(
    target: Target,
    suite: Annotated[str, typer.Option(metavar="NAME", help="A suite of local tasks, such as demo.")] = "",
    tasks: Annotated[str, typer.Option(metavar="A,B", help="Tasks of lm-eval by name.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Questions per task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions at once.")] = 32,
    workdir: Annotated[Path | None, typer.Option(help="Keep the scores in this workdir's table of runs too.")] = None,
    json_file: Json = None,
) -> None:
    """Benchmark with lm-eval, on the model in memory."""
    from evaluation import harness
    from evaluation.errors import TaskError
    from workbench import benchmarks, report

    if bool(suite) == bool(tasks):
        raise TaskError("give either --suite NAME or --tasks A,B; suites here: " + ", ".join(harness.suites()))
    if workdir and Path(target).is_dir():
        raise TaskError(
            "--workdir keeps the scores of recipes. Give the recipe.yml of that folder, or leave --workdir out."
        )
    module, tokenizer, recipe = _compose(target)
    with _progress() as bar:
        task = bar.add_task("benchmark")

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, description=what, completed=done, total=total)

        chosen: Any = suite or [name for name in tasks.split(",") if name]
        scores = harness.run(module, tokenizer, chosen, limit=limit, batch_size=batch_size, progress=progress)
    typer.echo(report.scores(scores))
    if workdir and recipe:
        benchmarks.keep(workdir, recipe, scores, suite=suite, limit=limit, say=_say)
    _write_json(
        json_file, {**report.of(recipe, target), "limit": limit, "scores": [score._asdict() for score in scores]}
    )


@app.command()
def methods(json_file: Json = None) -> None:
    """The merge methods with their formulas and parameters."""
    from workbench import report

    typer.echo(report.methods())
    _write_json(json_file, report.methods_as_data())


@demo_app.command("path")
def demo_path() -> None:
    """Print where the demo is."""
    from workbench.demo import DEMO

    typer.echo(DEMO)


@demo_app.command("build")
def demo_build(
    out: Annotated[Path | None, typer.Option(help="The folder to make; the shipped one if not given.")] = None,
    seed: Annotated[int, typer.Option(help="The seed of data and training.")] = 0,
) -> None:
    """Generate the data, train base and experts, search ω, and print the measured table."""
    from workbench.demo import DEMO, build

    with _progress() as bar:
        task = bar.add_task("demo")

        def progress(what: str, done: float, total: float) -> None:
            bar.update(task, description=what, completed=done, total=total)

        table = build(out or DEMO, seed=seed, progress=progress)
    typer.echo(table)


def run() -> None:
    """The `dem` command: `app`, with errors for their reader."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 2 for wrong input, 130 and 143 when it was ended by a signal."""
    from workbench.session import is_for_the_reader

    if threading.current_thread() is threading.main_thread():
        # An ended process cleans up what it has staged, as an interrupted one does.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:
        if not is_for_the_reader(error):
            raise
        _say(str(error))
        return 2
    return 0


def _compose(target: str) -> tuple[Any, Any, "Recipe | None"]:
    """The module and tokenizer of a folder, or of a recipe composed in memory; the recipe, if it was one."""
    from evaluation.model import load
    from merging import Checkpoint, Recipe, check, open_recipe
    from merging.recipe import DTYPES
    from workbench.models import Composer

    if Path(target).is_dir():
        folder = Path(target)
        loaded = load(folder, checkpoint=Checkpoint(folder))
        return loaded.module, loaded.tokenizer, None
    recipe = Recipe.read(target)
    base, vectors = open_recipe(recipe)
    for problem in check(recipe, base, vectors):
        _say(f"warning: {problem.message}")
    named = recipe.out_dtype or recipe.dtype
    loaded = load(base.path, checkpoint=base, dtype=DTYPES[named] if named else None)
    module = Composer(base.path, loaded, base, vectors).compose(recipe)
    return module, loaded.tokenizer, _identified(recipe, base, vectors)


def _identified(recipe: "Recipe", base: "Checkpoint", vectors: "dict[str, Vector]") -> "Recipe":
    """The recipe with the digests of what it is carried out on."""
    from dataclasses import replace

    return replace(recipe, inputs={"base": base.digest} | {name: vector.digest for name, vector in vectors.items()})


def _names(checkpoints: list[Path]) -> list[str]:
    names: list[str] = []
    for path in checkpoints:
        stem = path.resolve().name
        names.append(stem if stem not in names else f"{stem}-{names.count(stem) + 2}")
    return names


@contextmanager
def _progress() -> "Iterator[Progress]":
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _write_json(file: Path | None, content: Any) -> None:
    if file is None:
        return
    draft = file.with_name(f".{file.name}.tmp")
    draft.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(file)
