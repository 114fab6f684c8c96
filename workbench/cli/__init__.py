"""`dem`: the verbs of the page as commands."""

from workbench.cli import compare, make, measure, show, train
from workbench.cli.app import app, main, run

__all__ = ["app", "compare", "main", "make", "measure", "run", "show", "train"]
