"""`dem`: the verbs of the page as commands."""

from workbench.cli import compositions, looks, measures
from workbench.cli.application import app, main, run

__all__ = ["app", "compositions", "looks", "main", "measures", "run"]
