"""Writes command lines that can be pasted into a shell, whatever characters a path has."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence


def shell_line(words: Sequence[str]) -> str:
    """Returns words as one line for a POSIX shell, quoted where that is needed.

    >>> shell_line(["dem", "merge", "my recipe.yml", "out"])
    "dem merge 'my recipe.yml' out"
    """
    return shlex.join(words)


def shell_path(path: str | os.PathLike[str]) -> str:
    """Returns a path as a word of a command line: one that begins with a dash gets ./ in front.

    >>> shell_path("-x"), shell_path("models/-x")
    ('./-x', 'models/-x')
    """
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") else text
