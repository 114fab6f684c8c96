"""`dem`: the verbs of the page as commands. Wrong input ends with code 2 and one message, and nothing is written.

Heavy imports stand inside the commands, so that `dem --help` answers at once.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from merging import Checkpoint, Problem, Recipe, Vector

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
Target = Annotated[
    str,
    typer.Argument(metavar="RECIPE|FOLDER", help="A recipe file, the folder of a model, or a hub id, org/name@rev."),
]


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
    base: Annotated[str, typer.Argument(metavar="BASE", help="A folder, or a hub id: org/name@revision.")],
    checkpoints: Annotated[list[str], typer.Argument(metavar="CHECKPOINT...", help="Folders or hub ids.")],
    vocabulary: Annotated[
        str, typer.Option(help="Where vocabularies differ: refuse, base or union, as dem.vocabulary of a recipe.")
    ] = "refuse",
    json_file: Json = None,
) -> None:
    """Report every incompatibility, then norms, cosines and distances per layer."""
    from merging import measure, preflight
    from workbench import report

    with _located() as located:
        folders = [located(reference) for reference in (base, *checkpoints)]
    opened = preflight(folders[0], folders[1:], _names(checkpoints), vocabulary)
    _tell(opened.problems)
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
    as_adapter: Annotated[
        bool, typer.Option("--as-adapter", help="Write one PEFT adapter; all models of the recipe must be adapters.")
    ] = False,
    rank: Annotated[int | None, typer.Option(min=1, help="The most rank of the adapter; exact if not given.")] = None,
) -> None:
    """Merge and export; ends with code 0 only when the folder is complete and verified."""
    from dataclasses import replace

    from merging import Recipe, export, prepare
    from merging.adapter_export import export_adapter
    from merging.errors import RecipeError
    from merging.recipe import DTYPES
    from workbench import report

    if rank is not None and not as_adapter:
        raise RecipeError("--rank is the rank of an adapter; add --as-adapter, or leave it out.")
    if as_adapter and shard_gb != 5.0:
        raise RecipeError("--shard-gb is for full models; an adapter is one file. Leave it out.")
    if device != "cpu":
        raise RecipeError(
            f"--device {device!r} is not available; this version merges on 'cpu', at the speed of the disk."
        )
    if dtype and dtype not in DTYPES:
        raise RecipeError(f"--dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    wanted = Recipe.read(recipe)
    wanted = replace(wanted, out_dtype=dtype) if dtype else wanted
    with _located() as located:
        base, vectors, problems = prepare(wanted, located, None if as_adapter else out)
    _tell(problems)
    words = ["dem merge", str(recipe), str(out), *(["--dtype", dtype] if dtype else [])]
    words += [*(["--as-adapter"] if as_adapter else []), *(["--rank", str(rank)] if rank else [])]
    command = " ".join(words)
    identified = _identified(wanted, base, vectors)
    with _stages() as progress:
        if as_adapter:
            fit = export_adapter(identified, base, vectors, out, rank=rank, progress=progress, command=command)
        else:
            shard_bytes = round(shard_gb * 1e9)
            export(identified, base, vectors, out, shard_bytes=shard_bytes, progress=progress, command=command)
    if as_adapter:
        typer.echo(report.adapter(fit))
    typer.echo(
        f"{out}: {wanted.formula()}, {sum(file.stat().st_size for file in out.iterdir()) / 1e6:,.1f} MB, verified"
    )


@app.command()
def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A folder, or a hub id: org/name@revision.")],
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A full fine-tune of the base.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make; it must not exist.")],
    rank: Annotated[int | None, typer.Option(min=1, help="The rank of the adapter.")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Instead of a rank: the share of each matrix's ‖Δ‖² to keep, such as 0.9.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the file: float32 if not given, bfloat16 or float16.")] = "",
    json_file: Json = None,
) -> None:
    """Make a LoRA adapter of a full fine-tune, and report what it misses per layer."""
    from merging import preflight
    from merging.extract import extract as extract_adapter
    from workbench import report

    with _located() as located:
        opened = preflight(located(base), [located(checkpoint)], _names([checkpoint]))
    _tell(opened.problems)
    if any(problem.severity == "error" for problem in opened.problems):
        raise typer.Exit(2)
    (vector,) = opened.vectors.values()
    options = {"--rank": rank, "--energy": energy, "--dtype": dtype or None}
    given = [f"{option} {value}" for option, value in options.items() if value is not None]
    with _stages() as progress:
        fit = extract_adapter(
            vector,
            opened.base,
            out,
            rank=rank,
            energy=energy,
            dtype=dtype or None,
            base_name=base,
            progress=progress,
            command=" ".join(["dem extract", base, checkpoint, str(out), *given]),
        )
    typer.echo(report.adapter(fit))
    _write_json(
        json_file, {"base": opened.base.digest, "checkpoint": vector.digest, "adapter": str(out), **fit.as_data()}
    )


@app.command()
def vector(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A folder, or a hub id: org/name@revision.")],
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A fine-tune, an adapter or a saved vector.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make; it must not exist.")],
    dtype: Annotated[str, typer.Option(help="float32, which is exact, or bfloat16 or float16.")] = "float32",
    minus: Annotated[
        list[str] | None, typer.Option(metavar="CHECKPOINT", help="A vector to take away; repeatable.")
    ] = None,
    plus: Annotated[list[str] | None, typer.Option(metavar="CHECKPOINT", help="A vector to add; repeatable.")] = None,
) -> None:
    """Save a distribution vector on its own, or an analogy of several: Δ(CHECKPOINT) − Δ(minus) + Δ(plus)."""
    from merging import preflight
    from merging.arithmetic import Combined
    from merging.saved import SavedVector, save_vector

    references = [checkpoint, *(minus or []), *(plus or [])]
    with _located() as located:
        folders = [located(reference) for reference in (base, *references)]
    opened = preflight(folders[0], folders[1:], _names(references))
    _tell(opened.problems)
    if any(problem.severity == "error" for problem in opened.problems):
        raise typer.Exit(2)
    signs = [1.0, *[-1.0] * len(minus or []), *[1.0] * len(plus or [])]
    terms = list(zip(signs, opened.vectors.values(), strict=True))
    words = [f"{'−' if sign < 0 else '+'} Δ{one.name}" for sign, one in terms]
    formula = " ".join(words).removeprefix("+ ")
    with _stages() as progress:
        save_vector(terms[0][1] if len(terms) == 1 else Combined(formula, terms), out, dtype=dtype, progress=progress)
    facts = SavedVector(out, opened.base).facts
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    exact = "exact" if dtype == "float32" else f"{facts.error:.2%} off"
    typer.echo(f"{out}: {formula}, {dtype}, {exact}, {size:,.1f} MB, verified")


@app.command()
def rounding(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file, in mergekit's YAML.")],
    dtype: Annotated[str, typer.Option(help="Measure this output dtype whatever the recipe says.")] = "",
    json_file: Json = None,
) -> None:
    """What the output dtype loses of the merge, per layer, with the advice that follows; nothing is written."""
    from dataclasses import replace

    from merging import Recipe, prepare
    from merging.rounding import rounding_cost
    from workbench import report

    wanted = Recipe.read(recipe)
    wanted = replace(wanted, out_dtype=dtype) if dtype else wanted
    with _located() as located:
        base, vectors, problems = prepare(wanted, located)
    _tell(problems)
    with _stages() as progress:
        cost = rounding_cost(wanted, base, vectors, lambda done, total: progress("measuring", done, total))
    typer.echo(report.rounding(cost))
    identified = _identified(wanted, base, vectors)
    _write_json(json_file, {**report.of(identified, str(recipe)), **report.rounding_as_data(cost)})


@app.command()
def weights(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file, in mergekit's YAML.")],
    json_file: Json = None,
) -> None:
    """The ω that each tensor gets from each model, with gradients, filters, include and exclude resolved."""
    from merging import Recipe, prepare
    from merging.merge import effective_weights
    from workbench import report

    wanted = Recipe.read(recipe)
    with _located() as located:
        base, vectors, problems = prepare(wanted, located)
    _tell(problems)
    table = effective_weights(wanted, base, vectors)
    typer.echo(report.weights(table))
    _write_json(json_file, {**report.of(_identified(wanted, base, vectors), str(recipe)), "weights": table})


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
def statistics(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A model, or a hub id: org/name@revision.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to make; it must not exist.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="A folder with <dataset>/<split>.jsonl.")],
    kind: Annotated[str, typer.Option(help="fisher, for the method of that name, or gram, for regmean.")],
    dataset: Annotated[list[str] | None, typer.Option(metavar="NAME", help="The model's own; repeatable.")] = None,
    split: Annotated[str, typer.Option(help="Which split to read.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Examples per dataset.")] = None,
    sampled: Annotated[bool, typer.Option("--sampled", help="fisher: of tokens drawn from the model.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="The seed of that draw.")] = 0,
) -> None:
    """Collect a model's statistics on its own data, for the merge methods that weigh models by them."""
    from workbench.statistics import collect

    chosen: Any = kind
    names = dataset or ()
    with _located() as located:
        place = located(folder)
    with _progress() as bar:
        task = bar.add_task("collecting")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        made = collect(
            place, out, data, chosen, datasets=names, split=split, limit=limit, sampled=sampled, seed=seed,
            progress=progress, say=_say,
        )  # fmt: skip
    facts = made.facts
    size = out.stat().st_size / 1e6
    typer.echo(
        f"{out}: {kind} of {len(made.names)} tensors on {', '.join(facts.datasets)}, {facts.examples:,} examples, "
        f"{facts.tokens:,} tokens, {size:,.1f} MB"
    )


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
    if workdir and _is_model(target):
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
    from merging import Checkpoint, Recipe, RecipeError, prepare
    from merging.arranged import Grown
    from merging.recipe import DTYPES
    from workbench.models import Composer

    if _is_model(target):
        with _located() as located:
            folder = located(target)
        loaded = load(folder, checkpoint=Checkpoint(folder))
        return loaded.module, loaded.tokenizer, None
    recipe = Recipe.read(target)
    if recipe.slices:
        raise RecipeError(
            f"{target} has slices, which make a model of other layers than its base's; it is not composed in memory. "
            f"Write it first, `dem merge {target} OUT`, and give OUT here."
        )
    with _located() as located:
        base, vectors, problems = prepare(recipe, located)
    _tell(problems)
    if isinstance(base, Grown):
        raise RecipeError(
            f"{target}: dem.vocabulary: union adds {len(base.entries)} tokens, which the model in memory has no rows for. "
            "Export it with dem merge and give the folder that is written."
        )
    named = recipe.out_dtype or recipe.dtype
    loaded = load(base.path, checkpoint=base, dtype=DTYPES[named] if named else None)
    module = Composer(base.path, loaded, base, vectors).compose(recipe)
    return module, loaded.tokenizer, _identified(recipe, base, vectors)


def _identified(recipe: "Recipe", base: "Checkpoint", vectors: "dict[str, Vector]") -> "Recipe":
    """The recipe with the digests of what it is carried out on."""
    from dataclasses import replace

    return replace(recipe, inputs={"base": base.digest} | {name: vector.digest for name, vector in vectors.items()})


def _is_model(target: str) -> bool:
    """Whether RECIPE|FOLDER is a model: a folder, or a hub id that is not a recipe's name mistyped."""
    from merging.hub import is_hub_id

    return Path(target).is_dir() or (is_hub_id(target) and not target.endswith((".yml", ".yaml")))


def _names(checkpoints: "Sequence[str | Path]") -> list[str]:
    from merging.hub import is_hub_id
    from merging.recipe import unique

    names: list[str] = []
    for reference in map(str, checkpoints):
        path = Path(reference.partition("@")[0]) if is_hub_id(reference) else Path(reference).resolve()
        names.append(unique(path.name, names))
    return names


@contextmanager
def _located() -> "Iterator[Callable[[str], Path]]":
    """A reference -> its folder, with a bar for what comes from the hub; a branch means one commit to one command."""
    from functools import cache

    from merging.hub import locate

    with _progress() as bar:

        @cache
        def located(reference: str) -> Path:
            task = bar.add_task(reference, visible=False)
            return locate(reference, lambda done, total: bar.update(task, completed=done, total=total, visible=True))

        yield located


@contextmanager
def _progress() -> "Iterator[Progress]":
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar


@contextmanager
def _stages() -> "Iterator[Callable[[str, int, int], None]]":
    """A bar for each stage of an export."""
    with _progress() as bar:
        rows: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in rows:
                rows[stage] = bar.add_task(stage)
            bar.update(rows[stage], completed=done, total=total)

        yield progress


def _tell(problems: "Sequence[Problem]") -> None:
    for problem in problems:
        _say(f"{problem.severity}: {problem.text}")


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _write_json(file: Path | None, content: Any) -> None:
    if file is None:
        return
    draft = file.with_name(f".{file.name}.tmp")
    draft.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(file)
