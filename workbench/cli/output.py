"""What a command says: its result on stdout, notes and errors on stderr, and the result as JSON."""

import errno
import json
import math
import os
import stat
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from plumbing.atomic import check_writable, write_whole
from workbench.errors import SessionError

QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
"""Whether --quiet was given to the command that runs now; `workbench.cli.main` resets it."""

WORKER: ContextVar[bool] = ContextVar("worker", default=False)
"""Whether a page runs the command that runs now, with --worker; `workbench.cli.main` resets it."""

WIDTH = 80
"""Columns that every result fits, on a terminal and in a file."""

Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON too; - is stdout."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file of --json.")]


def event(**content: Any) -> None:
    """Print an event of a worker, a line of JSON on stdout."""
    typer.echo(json.dumps(content))
    sys.stdout.flush()


def say(message: str) -> None:
    """Print a line of the result on stdout; a worker sends it to the log of its job."""
    if WORKER.get():
        event(log=message)
    else:
        typer.echo(message)


def note(message: str) -> None:
    """Print a line on stderr, unless --quiet was given; a worker sends it to its job's log."""
    if WORKER.get():
        event(log=message)
    elif not QUIET.get():
        typer.echo(message, err=True)


def warn(message: str) -> None:
    """Print a warning on stderr, unless --quiet was given."""
    note(f"warning: {message}")


def fail(message: str) -> None:
    """Print an error on stderr, with its further lines below the first word of its message."""
    typer.echo("error: " + message.rstrip().replace("\n", "\n       "), err=True)


def wrapped(text: str) -> str:
    """Break lines longer than WIDTH between words, and indent what follows by four more spaces."""
    lines = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()))
        parts = textwrap.wrap(
            line,
            WIDTH,
            subsequent_indent=indent + "    ",
            break_long_words=False,  # addresses stay whole
            break_on_hyphens=False,
        )
        lines += parts or [""]
    return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """Where the result of a command goes: text for a person, and JSON if that was asked for.

    Attributes:
        file: the file of --json; None if there is none, or JSON goes to stdout.
        on_stdout: whether JSON goes to stdout. The text then goes to stderr, because whatever
            reads stdout expects nothing but JSON there.
    """

    file: Path | None = None
    on_stdout: bool = False

    def show(self, text: str) -> None:
        """Print the result as text; the page that runs a worker reads the JSON instead."""
        if WORKER.get():
            return
        if self.on_stdout:
            note(text)
        else:
            typer.echo(text)

    @property
    def wanted(self) -> bool:
        """Whether --json was given."""
        return self.file is not None or self.on_stdout

    def write(self, content: Any) -> None:
        """Write the result as JSON, if --json was given; NaN, which JSON lacks, becomes null.

        Raises:
            SessionError: the file cannot be written; a regular file is then as it was.
        """
        if not self.wanted:
            return
        text = (
            json.dumps(_without_nan(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        )
        if self.file is None:
            typer.echo(text, nl=False)
            return
        with _named(self.file):
            if _is_special(self.file):
                with self.file.open("w", encoding="utf-8") as stream:
                    stream.write(text)
            else:
                write_whole(self.file.resolve(), text)


def _without_nan(content: Any) -> Any:
    """Return JSON values with None in the place of NaN."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def refuse_existing(file: Path, force: bool) -> None:
    """Refuse to overwrite a file before anything is computed.

    Raises:
        SessionError: it exists and `force` is off.
    """
    if file.exists() and not force:
        raise SessionError(f"{file} exists. Give another file, or --force to overwrite it.")


def report_to(file: Path | None, force: bool) -> Report:
    """Check the file of --json before anything is computed, and return where the result goes.

    A regular file is written whole beside itself and then renamed, which would replace whatever
    has its name. So a link is followed first, and a device, a pipe or a terminal is opened and
    written to instead.

    Args:
        file: as given; `-`, or a name of this process's stdout such as /dev/stdout, is stdout.
        force: whether a file that exists may be overwritten.

    Raises:
        SessionError: nothing can be written there, or it exists and `force` is off.
    """
    if file is None:
        return Report()
    with _named(file):
        if str(file) == "-" or _is_stdout(file):
            return Report(on_stdout=True)
        if str(file).startswith("-"):
            raise SessionError(
                f"--json takes a file, and {file} looks like an option. Give a file, or - for "
                f"stdout; a file of this name is ./{file}."
            )
        if file.is_dir():
            raise SessionError(f"--json: {file} is a folder. Give a file in it.")
        if _is_special(file):
            if not os.access(file, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return Report(file)
        target = file.resolve()
        if not target.parent.is_dir():
            raise SessionError(
                f"--json: {target.parent if file.is_symlink() else file.parent} is not a folder. "
                "Make it first, or give another file."
            )
        if target.exists() and not force:
            raise SessionError(
                f"--json: {file} exists. Add --force to overwrite it, or give another file."
            )
        check_writable(target)
    return Report(file)


def _is_special(file: Path) -> bool:
    """Whether a path exists and is neither a regular file nor a link to one."""
    return file.exists() and not stat.S_ISREG(file.stat().st_mode)


def _is_stdout(file: Path) -> bool:
    """Whether a path is the device, pipe or file that this process's stdout is."""
    try:
        return os.path.samestat(file.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # no such file, or a stdout that has no descriptor
        return str(file) == "/dev/stdout"


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Turn an error of the system into one that names --json and the file."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        cause = error.strerror if isinstance(error, OSError) else error
        raise SessionError(
            f"--json: {file} cannot be written ({cause}). Give another file."
        ) from None
