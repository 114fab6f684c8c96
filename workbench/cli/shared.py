"""What the commands share: models and recipes from their names, dtypes, progress, the ledger."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbing.shell import shell_line, shell_path
from workbench.cli.output import QUIET, fail, note, warn
from workbench.errors import SessionError

if TYPE_CHECKING:
    from rich.progress import Progress

    from evaluation.model import Loaded
    from merging import Checkpoint, Problem, Recipe, Vector

Target = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|FOLDER",
        help="A recipe file, the folder of a model, or a hub id, org/name@revision.",
    ),
]
RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe file, in mergekit's YAML.")
]
NewFolder = Annotated[
    Path, typer.Argument(metavar="OUT", help="The folder to make; it must not exist.")
]
Base = Annotated[
    str, typer.Argument(metavar="BASE", help="A folder, or a hub id, org/name@revision.")
]

OUTPUT_DTYPES = ("float32", "bfloat16", "float16")
"""The dtypes that every verb with --dtype takes."""


_REPORTING = ("quiet", "json_file", "force")
"""Parameters of verbs that change what is said, and not what is made."""


def as_typed(context: typer.Context) -> str:
    """Return the command line of the verb that runs now, to be pasted into a shell.

    It has all arguments, and every option that was given and decides what is made.
    """
    words = context.command_path.split()
    for param in context.command.params:
        value: Any = context.params.get(param.name or "")
        if param.param_type_name == "argument":
            words.append(shell_path(value))
            continue
        source = context.get_parameter_source(param.name or "")
        if param.name in _REPORTING or source is None or source.name != "COMMANDLINE":
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            words += [param.opts[0]] if each is True else [param.opts[0], _word(each)]
    return shell_line(words)


def _word(value: Any) -> str:
    """Return the value of an option as a word of a command line."""
    return shell_path(value) if isinstance(value, str | Path) else str(value)


def dtype_option(help: str) -> Any:
    """Return the option --dtype of a verb; an unknown dtype is refused before the verb begins."""
    return typer.Option("--dtype", metavar="DTYPE", help=help, callback=_check_dtype)


def _check_dtype(name: str) -> str:
    """Return the name of a dtype, or "" for none.

    Raises:
        SessionError: for an unknown name, with the nearest known one.
    """
    if name and name not in OUTPUT_DTYPES:
        from merging.dtypes import nearest_dtype

        hint = nearest_dtype(name, OUTPUT_DTYPES)
        suggestion = f"; {hint}" if hint.startswith("did") else "."
        known = ", ".join(OUTPUT_DTYPES)
        raise SessionError(f"--dtype is {name!r}, expected one of {known}{suggestion}")
    return name


def recipe_from(file: str | Path) -> "Recipe":
    """Read a recipe. The demo's names its models from the folder above assets/, wherever that is.

    Raises:
        RecipeError: the file is no recipe.
    """
    from merging.recipe import read_recipe
    from merging.recipe.yaml_file import relative_to
    from plumbing.paths import assets

    recipe = read_recipe(file)
    if Path(file).resolve().is_relative_to(assets().resolve()):
        return relative_to(recipe, assets().parent)
    return recipe


def compose(target: str) -> tuple[Any, Any, "Recipe | None"]:
    """Load the model that a folder holds, or that a recipe makes.

    A recipe is composed in memory, on the module of its base. If the result has another shape than
    its base, it is written to a temporary folder first and loaded from there.

    Returns:
        The module, its tokenizer (None if it has none), and the recipe (None for a folder).

    Raises:
        SessionError: nothing has the name that was given.
    """
    from evaluation.model import load
    from merging import Checkpoint, prepare, with_identities
    from merging.dtypes import DTYPES
    from merging.engine.identities import check_identities, gather
    from merging.inputs.hub import probe
    from merging.inputs.vocabulary.aligned import Grown
    from workbench.session.composer import Composer

    if is_model(target):
        with resolver() as located:
            folder = located(target)
        loaded = load(folder, checkpoint=Checkpoint(folder))
        return loaded.module, loaded.tokenizer, None
    if not os.path.lexists(target):
        raise SessionError(
            f"{target} does not exist. Give a recipe (YAML file), a model folder, or a hub id "
            "(org/name)."
        )
    recipe = recipe_from(target)
    with resolver() as located:
        base, vectors, problems = prepare(recipe, located, probe=probe, check_inputs=False)
    tell(problems)
    # The scores name the recipe with the digests of its inputs, which are read now.
    gather([base, *vectors.values()])
    if recipe.slices or isinstance(base, Grown):
        loaded = _written(recipe, base, vectors, target)
        return loaded.module, loaded.tokenizer, with_identities(recipe, base, vectors)
    named = recipe.out_dtype or recipe.dtype
    loaded = load(base.path, checkpoint=base, dtype=DTYPES[named] if named else None)
    module = Composer(base.path, loaded, base, vectors).compose(recipe)
    check_identities(recipe, base, vectors)
    return module, loaded.tokenizer, with_identities(recipe, base, vectors)


def _written(
    recipe: "Recipe", base: "Checkpoint", vectors: "Mapping[str, Vector]", target: str
) -> "Loaded":
    """Load what a recipe makes from a temporary folder, which is gone when this returns."""
    from tempfile import TemporaryDirectory

    from evaluation.model import load
    from merging import Checkpoint, ExportError, export
    from merging.outputs.export import export_bytes

    with TemporaryDirectory(prefix="dem-") as place:
        size = export_bytes(recipe, base, vectors) / 1e6
        note(
            f"{target} makes a model of another shape than its base's: {size:,.1f} MB are written "
            f"to {place} until it is loaded"
        )
        try:
            with stage_bars() as progress:
                folder = export(recipe, base, vectors, Path(place) / "model", progress=progress)
        except ExportError as error:
            raise ExportError(f"{error} Temporary folders are made where TMPDIR says.") from None
        return load(folder, checkpoint=Checkpoint(folder))


def is_model(target: str) -> bool:
    """Whether RECIPE|FOLDER is a model: a folder, or a hub id that does not end in .yml."""
    from merging.inputs.hub import is_hub_id

    return Path(target).is_dir() or (is_hub_id(target) and not target.endswith((".yml", ".yaml")))


def names_of(checkpoints: "Sequence[str | Path]") -> list[str]:
    """Return a name for each reference, numbered if two are alike."""
    from merging.inputs.hub import is_hub_id
    from merging.recipe.fields import unique_name

    names: list[str] = []
    for reference in map(str, checkpoints):
        path = (
            Path(reference.partition("@")[0]) if is_hub_id(reference) else Path(reference).resolve()
        )
        names.append(unique_name(path.name, names))
    return names


@contextmanager
def resolver() -> "Iterator[Callable[[str], Path]]":
    """Yield a function from a reference to its folder, with a bar for what comes from the hub.

    It keeps its answers, so that a branch means the same commit throughout a command.
    """
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
    """Yield a progress bar on stderr, shown only on a terminal and without --quiet.

    Args:
        in_bytes: show bytes, and bytes per second.
    """
    from rich import progress
    from rich.console import Console

    from workbench.pace import time_left_column

    console = Console(stderr=True)
    columns: list[progress.ProgressColumn] = [
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
    ]
    if in_bytes:
        columns += [progress.DownloadColumn(), progress.TransferSpeedColumn()]
    columns += [progress.TimeElapsedColumn(), time_left_column()]
    hidden = QUIET.get() or not console.is_terminal
    with progress.Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        yield bar


@contextmanager
def stage_bars(*, in_bytes: bool = True) -> "Iterator[Callable[[str, int, int], None]]":
    """Yield a function that shows a bar for each stage of an export."""
    with progress_bar(in_bytes=in_bytes) as bar:
        rows: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in rows:
                rows[stage] = bar.add_task(stage, total=total)
            bar.update(rows[stage], completed=done, total=total)

        yield progress


def tell(problems: "Sequence[Problem]") -> None:
    """Print the problems of a preflight on stderr, one after the other."""
    for problem in problems:
        if problem.severity == "error":
            fail(problem.text)
        else:
            note(f"{problem.severity}: {problem.text}")


def stop_on_errors(problems: "Sequence[Problem]") -> None:
    """End the command with code 2 if one of the problems is an error."""
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(2)


@contextmanager
def ledger_of(workdir: Path | None) -> Iterator[Any]:
    """Yield the cost ledger of a workdir; None if no workdir is given."""
    from evaluation.records.ledger import FILE, Ledger

    if workdir is None:
        yield None
        return
    with Ledger(workdir / FILE, warn) as ledger:
        yield ledger
