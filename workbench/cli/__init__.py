"""`dem`: the verbs of the page as commands."""

from workbench.cli import comparing, compositions, looks, measures, training
from workbench.cli.application import app, main, run

__all__ = ["app", "comparing", "compositions", "looks", "main", "measures", "run", "training"]
