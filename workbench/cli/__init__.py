"""`dem`: the verbs of the page as commands."""

from workbench.cli import balance, compare, make, measure, real, search_omega, show, train
from workbench.cli.app import app, main, run

__all__ = [
    "app",
    "balance",
    "compare",
    "main",
    "make",
    "measure",
    "real",
    "run",
    "search_omega",
    "show",
    "train",
]
