"""`dem`: the verbs of the page as commands."""

from workbench.cli import compare, make, measure, real, search_omega, show, train
from workbench.cli.app import app, main, run

__all__ = [
    "app",
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
