"""The application `dem`, its page and its demo; and errors for their reader.

Wrong input ends with code 2 and one message, and nothing is written. Heavy imports stand inside the commands, so that
`dem --help` answers at once.
"""

import gc
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.shared import ledger_of, progress_bar, say

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


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
    workdir: Annotated[
        Path, typer.Option(help="Where runs, jobs, recipes and exports are kept.")
    ] = Path("workdir"),
    models: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A folder whose models may be opened; repeatable."),
    ] = None,
    auth: Annotated[
        str, typer.Option(metavar="USER:PASSWORD", help="Needed for any host but this machine.")
    ] = "",
    demo: Annotated[bool, typer.Option(help="Open with the demo.")] = True,
) -> None:
    """Open the page."""
    from workbench.page.server import serve

    serve(host=host, port=port, workdir=workdir, models=models or [], auth=auth, demo=demo)


@demo_app.command("path")
def demo_path() -> None:
    """Print where the demo is."""
    from workbench.demo.build import DEMO

    typer.echo(DEMO)


@demo_app.command("build")
def demo_build(
    out: Annotated[
        Path | None, typer.Option(help="The folder to make; the shipped one if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of data and training.")] = 0,
    workdir: Annotated[
        Path | None, typer.Option(help="Keep the cost in this workdir's ledger.")
    ] = None,
) -> None:
    """Generate the data, train base and experts, search ω, and print the measured table."""
    from workbench.demo.build import DEMO, build

    with progress_bar() as bar, ledger_of(workdir) as ledger:
        task = bar.add_task("demo")

        def progress(what: str, done: float, total: float) -> None:
            bar.update(task, description=what, completed=done, total=total)

        table = build(out or DEMO, seed=seed, progress=progress, ledger=ledger)
    typer.echo(table)


def run() -> None:
    """The `dem` command: `app`, with errors for their reader."""
    code = main(sys.argv[1:])
    gc.freeze()  # or the interpreter looks through all that torch has made before it ends
    sys.exit(code)


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 2 for wrong input, 130 and 143 when it was ended by a signal."""
    from workbench.errors import is_user_error

    if threading.current_thread() is threading.main_thread():
        # An ended process cleans up what it has staged, as an interrupted one does.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:
        if not is_user_error(error):
            raise
        say(str(error))
        return 2
    return 0
