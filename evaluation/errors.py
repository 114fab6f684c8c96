"""The errors of this package, as one tree: `except EvaluationError` catches all of them.

EvaluationError
├── DataError      examples cannot be scored
├── TaskError      a benchmark task is unknown or refused, or its data is not available
├── StoreError     a store of results cannot be opened or written
└── Stopped        `should_stop` returned True; nothing is wrong

A folder that cannot be turned into a model is merging's LoadError: training loads models too.

Each message says what was given, what was expected and what to do next, in that order.
"""

from merging.errors import LoadError as LoadError
from merging.errors import cause as cause


class EvaluationError(Exception):
    """Anything that a user of this package can cause and correct."""


class DataError(EvaluationError):
    """Examples cannot be scored."""


class TaskError(EvaluationError):
    """A benchmark task is unknown or refused, or its data is not available."""


class StoreError(EvaluationError):
    """A store of results cannot be opened or written."""


class Stopped(EvaluationError):
    """The caller stopped the measurement before it was complete."""
