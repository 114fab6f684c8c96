"""What the commands share: references to folders, bars on stderr, lines for the reader, JSON."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbing.atomic import write_whole

if TYPE_CHECKING:
    from rich.progress import Progress

    from evaluation.model import Loaded
    from merging import Checkpoint, Problem, Recipe, Vector

Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON too.")
]
Target = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|FOLDER",
        help="A recipe file, the folder of a model, or a hub id, org/name@rev.",
    ),
]


def compose(target: str) -> tuple[Any, Any, "Recipe | None"]:
    """The module and tokenizer of a folder, or of a recipe; the recipe, if it was one.

    A recipe is composed in memory, on the module of its base. Where the result is a model of another shape than its base, it
    is written to a temporary folder first and loaded from there.
    """
    from evaluation.model import load
    from merging import Checkpoint, prepare, with_identities
    from merging.dtypes import DTYPES
    from merging.inputs.hub import probe
    from merging.inputs.vocabulary.aligned import Grown
    from merging.recipe import read_recipe
    from workbench.session.composer import Composer

    if is_model(target):
        with resolver() as located:
            folder = located(target)
        loaded = load(folder, checkpoint=Checkpoint(folder))
        return loaded.module, loaded.tokenizer, None
    recipe = read_recipe(target)
    with resolver() as located:
        base, vectors, problems = prepare(recipe, located, ask=probe)
    tell(problems)
    final = with_identities(recipe, base, vectors)
    if recipe.slices or isinstance(base, Grown):
        loaded = _written(final, base, vectors, target)
        return loaded.module, loaded.tokenizer, final
    named = recipe.out_dtype or recipe.dtype
    loaded = load(base.path, checkpoint=base, dtype=DTYPES[named] if named else None)
    module = Composer(base.path, loaded, base, vectors).compose(recipe)
    return module, loaded.tokenizer, final


def _written(
    recipe: "Recipe", base: "Checkpoint", vectors: "Mapping[str, Vector]", target: str
) -> "Loaded":
    """What a recipe makes, loaded from a temporary folder that is gone when this returns."""
    from tempfile import TemporaryDirectory

    from evaluation.model import load
    from merging import Checkpoint, ExportError, export
    from merging.outputs.export import export_bytes

    with TemporaryDirectory(prefix="dem-") as place:
        size = export_bytes(recipe, base, vectors) / 1e6
        say(
            f"{target} makes a model of another shape than its base's: {size:,.1f} MB are written to {place} until it is loaded"
        )
        try:
            with stage_bars() as progress:
                folder = export(recipe, base, vectors, Path(place) / "model", progress=progress)
        except ExportError as error:
            raise ExportError(f"{error} Temporary folders are made where TMPDIR says.") from None
        return load(folder, checkpoint=Checkpoint(folder))


def is_model(target: str) -> bool:
    """Whether RECIPE|FOLDER is a model: a folder, or a hub id that is not a recipe's name mistyped."""
    from merging.inputs.hub import is_hub_id

    return Path(target).is_dir() or (is_hub_id(target) and not target.endswith((".yml", ".yaml")))


def names_of(checkpoints: "Sequence[str | Path]") -> list[str]:
    """A name for each reference, numbered where two are alike."""
    from merging.inputs.hub import is_hub_id
    from merging.recipe.fields import unique

    names: list[str] = []
    for reference in map(str, checkpoints):
        path = (
            Path(reference.partition("@")[0]) if is_hub_id(reference) else Path(reference).resolve()
        )
        names.append(unique(path.name, names))
    return names


@contextmanager
def resolver() -> "Iterator[Callable[[str], Path]]":
    """A reference -> its folder, with a bar for what comes from the hub; a branch means one commit to one command."""
    from functools import cache

    from merging.inputs.hub import locate

    with progress_bar(in_bytes=True) as bar:

        @cache
        def located(reference: str) -> Path:
            task = bar.add_task(reference, visible=False)
            return locate(
                reference,
                lambda done, total: bar.update(task, completed=done, total=total, visible=True),
            )

        yield located


@contextmanager
def progress_bar(*, in_bytes: bool = False) -> "Iterator[Progress]":
    """A bar on stderr, where that is a terminal; with bytes and bytes per second where it counts those."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns: list[progress.ProgressColumn] = [
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
    ]
    if in_bytes:
        columns += [progress.DownloadColumn(), progress.TransferSpeedColumn()]
    columns += [progress.TimeElapsedColumn(), progress.TimeRemainingColumn()]
    with progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        yield bar


@contextmanager
def stage_bars(*, in_bytes: bool = True) -> "Iterator[Callable[[str, int, int], None]]":
    """A bar for each stage of an export."""
    with progress_bar(in_bytes=in_bytes) as bar:
        rows: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in rows:
                rows[stage] = bar.add_task(stage, total=total)
            bar.update(rows[stage], completed=done, total=total)

        yield progress


def tell(problems: "Sequence[Problem]") -> None:
    """Problems, a line each, on stderr."""
    for problem in problems:
        say(f"{problem.severity}: {problem.text}")


def stop_on_errors(problems: "Sequence[Problem]") -> None:
    """End with code 2 where one of the problems is an error."""
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(2)


def say(message: str) -> None:
    """A line on stderr."""
    typer.echo(message, err=True)


def write_json(file: Path | None, content: Any) -> None:
    """The content as a file that appears whole; nothing where no file was asked for."""
    if file is not None:
        write_whole(file, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def ledger_of(workdir: Path | None) -> Iterator[Any]:
    """The cost ledger of a workdir; None where none is given."""
    from evaluation.records.ledger import FILE, Ledger

    if workdir is None:
        yield None
        return
    with Ledger(workdir / FILE, say) as ledger:
        yield ledger
