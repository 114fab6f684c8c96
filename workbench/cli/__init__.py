"""`dem`: the verbs of the page as commands."""

from workbench.cli import (
    balance,
    compare,
    influence,
    make,
    measure,
    real,
    search_omega,
    show,
    train,
    vectors,
)
from workbench.cli.app import app, main, run

__all__ = [
    "app",
    "balance",
    "compare",
    "influence",
    "main",
    "make",
    "measure",
    "real",
    "run",
    "search_omega",
    "show",
    "train",
    "vectors",
]
