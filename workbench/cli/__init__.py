"""`dem`: the verbs of the page as commands."""

from workbench.cli import (
    balance,
    compare,
    influence,
    make,
    measure,
    misfiled,
    real,
    search_omega,
    show,
    train,
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
    "misfiled",
    "real",
    "run",
    "search_omega",
    "show",
    "train",
]
