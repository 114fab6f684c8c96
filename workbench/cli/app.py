"""The application `dem`, its page and its demo; and errors for the user.

Wrong input ends with code 2 and one message that begins with `error: `, and nothing is written.
Heavy imports are inside the commands, so that `dem --help` answers at once.
"""

import errno
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.help import Verb, Verbs
from workbench.cli.output import QUIET, WORKER, event, fail
from workbench.cli.shared import ledger_of, progress_bar
from workbench.processes import ending_signals

# Before torch is imported: two threads that spin while a third process works cost ten times the
# time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="dem",
    help="Compose, measure and export distribution-edited models: Θ + Σ ωᵢ Δᵢ.",
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
demo_app = typer.Typer(help="The demo that ships with the project.", cls=Verbs)
app.add_typer(demo_app, name="demo", rich_help_panel="Page")

Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress, no notes, no warnings; only errors."),
]


Worker = Annotated[bool, typer.Option("--worker", hidden=True)]
"""A page runs the verb: progress and errors are lines of JSON, and the end of stdin stops it."""


def command(
    panel: str,
    *examples: str,
    name: str | None = None,
    parent: typer.Typer = app,
    worker: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a verb of `dem`, with --quiet and a block of examples in its help.

    Args:
        panel: the panel of `dem --help` that lists it.
        examples: command lines that work in a clone, at most 78 characters each.
        name: the verb; the function's name if not given.
        parent: the group that the verb belongs to.
        worker: whether a page may run it, with --worker; see workbench.cli.output.WORKER.
    """
    flags = {"quiet": Quiet} | ({"worker": Worker} if worker else {})

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def verb(*args: Any, **kwargs: Any) -> None:
            if kwargs.pop("quiet"):
                QUIET.set(True)
            if worker and kwargs.pop("worker"):
                WORKER.set(True)
            function(*args, **kwargs)

        # Typer reads the flags from the signature; so every verb gets --quiet without naming it.
        own = signature(function)
        added = [
            Parameter(flag, Parameter.KEYWORD_ONLY, default=False, annotation=hint)
            for flag, hint in flags.items()
        ]
        vars(verb)["__signature__"] = own.replace(parameters=[*own.parameters.values(), *added])
        verb.__annotations__ = {**function.__annotations__, **flags}
        # Typer keeps the line breaks of a docstring, which are those of the source.
        paragraphs = cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        block = "Examples:\n\n" + "\n".join(examples)
        parent.command(name, cls=Verb, help=text, rich_help_panel=panel, epilog=block)(verb)
        return function

    return register


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dem {_version()}")
        raise typer.Exit


def _version() -> str:
    from importlib import metadata

    try:  # merging.version would load torch, which takes seconds
        return metadata.version("dem-workbench")
    except metadata.PackageNotFoundError:  # a clone that is not installed
        from merging.version import __version__

        return __version__


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    if quiet:
        QUIET.set(True)


@command("Page", "dem ui", "dem ui --port 7861 --models ~/models")
def ui(
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen on; 0 is any.")
    ] = 7860,
    workdir: Annotated[
        Path, typer.Option(metavar="DIR", help="Where runs, jobs, recipes and exports are kept.")
    ] = Path("workdir"),
    models: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A folder whose models may be opened; repeatable."),
    ] = None,
    auth: Annotated[
        str, typer.Option(metavar="USER:PASSWORD", help="Needed for any host but this machine.")
    ] = "",
    demo: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Open another folder laid out like the demo."),
    ] = None,
    no_demo: Annotated[bool, typer.Option("--no-demo", help="Start without the demo.")] = False,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Where the live model is: cpu, cuda or cuda:N.")
    ] = "cpu",
) -> None:
    """Open the page in a server on this machine, and print its address."""
    from workbench.errors import SessionError

    # The page promises to ask no hub. Set before gradio and transformers load the hub's client, and
    # inherited by the trainings that the page starts.
    os.environ["HF_HUB_OFFLINE"] = "1"
    from workbench.page.server import serve

    if demo is not None and no_demo:
        raise SessionError("--demo and --no-demo exclude each other. Give one of them.")
    if demo is not None and not (demo / "base").is_dir():
        raise SessionError(
            f"--demo {demo} has no folder base/. Give a folder with base/, a folder per checkpoint "
            "and data/."
        )
    if device != "cpu":  # the model is opened in the background, too late for an error here
        from merging.engine.accelerator import open_accelerator

        open_accelerator(device)
    serve(
        host=host,
        port=port,
        workdir=workdir,
        models=models or [],
        auth=auth,
        demo=False if no_demo else demo or True,
        device=device,
    )


@command(
    "Page",
    "dem demo path",
    "dem loss $(dem demo path)/base --data $(dem demo path)/data",
    name="path",
    parent=demo_app,
)
def demo_path() -> None:
    """Print the folder of the demo."""
    from plumbing.paths import assets

    typer.echo(assets() / "demo")


@command(
    "Page",
    "dem demo build --out /tmp/demo",
    "dem demo build --out /tmp/demo --seed 1 --workdir workdir",
    name="build",
    parent=demo_app,
)
def demo_build(
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to make; the shipped one if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed of data and training.")] = 0,
    workdir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the cost in this workdir's ledger.")
    ] = None,
) -> None:
    """Make the demo again from its seeds: data, base, experts and ω."""
    from workbench.demo.build import DEMO, build

    with progress_bar() as bar, ledger_of(workdir) as ledger:
        task = bar.add_task("demo")

        def progress(what: str, done: float, total: float) -> None:
            bar.update(task, description=what, completed=done, total=total)

        table = build(out or DEMO, seed=seed, progress=progress, ledger=ledger)
    typer.echo(table)


def run() -> None:
    """Run `dem` on the arguments of this process, and end the process with its exit code."""
    code = main(sys.argv[1:])
    gc.freeze()  # otherwise the interpreter looks through all that torch has made before it ends
    sys.exit(code)


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit code.

    Returns:
        0; 2 for wrong input, 128 and the number of the signal that ended it, 1 if nobody reads its
        output.
    """
    from workbench.errors import is_user_error

    if threading.current_thread() is threading.main_thread():
        # An ended process cleans up what it has staged, as an interrupted one does.
        for number in ending_signals():
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    # A group without a verb shows what verbs it has.
    arguments = [*arguments, "--help"] if arguments in ([], ["demo"], ["real"]) else arguments
    quiet, worker = QUIET.set(False), WORKER.set(False)
    try:
        # Not standalone: Typer would print its usage errors in a box, and without `error: `.
        code = app(arguments, prog_name="dem", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except typer.Abort:
        return 130
    except typer.TyperException as error:
        fail(_usage_message(error))
        return error.exit_code
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EIO) and error.filename is None:
            _drop_stdout()
            return 1
        if error.filename is None or error.strerror is None:
            raise
        fail(f"{error.filename}: {error.strerror}.")
        return 2
    except Exception as error:
        if not is_user_error(error):
            raise
        if WORKER.get():
            event(error=str(error))
        else:
            fail(str(error))
        return 2
    finally:
        QUIET.reset(quiet)
        WORKER.reset(worker)


def _usage_message(error: typer.TyperException) -> str:
    """Return what is wrong with the flags, and where they are described."""
    message = error.format_message()
    message += "" if message.endswith((".", "?", "!")) else "."
    context = getattr(error, "ctx", None)
    verb = context.command_path if context else "dem"
    return f"{message} Run {verb} --help to see what it takes."


def _drop_stdout() -> None:
    """Write nothing more to a pipe whose reader has gone, as in `dem methods | head`.

    Nor to a terminal that has gone.
    """
    # Otherwise the interpreter's last flush of stdout fails again, with a message.
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a stdout without a descriptor
        return
