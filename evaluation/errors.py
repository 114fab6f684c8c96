"""The errors of this package: one tree, so that a caller catches everything a user can cause with one name.

EvaluationError
├── LoadError      a folder that cannot be turned into a model
├── DataError      examples that cannot be scored
├── TaskError      a benchmark task that is unknown, refused, or whose data cannot be had
├── StoreError     the run store cannot be opened
└── Stopped        the caller's should_stop said so; nothing is wrong

Each message says what was given, what was expected and what to do next, in that order.
"""


class EvaluationError(Exception):
    """Anything a user of this package can cause and mend."""


class LoadError(EvaluationError):
    """A folder that cannot be turned into a model."""


class DataError(EvaluationError):
    """Examples that cannot be scored."""


class TaskError(EvaluationError):
    """A benchmark task that is unknown, refused, or whose data cannot be had."""


class StoreError(EvaluationError):
    """The run store cannot be opened."""


class Stopped(EvaluationError):
    """The measurement was stopped by its caller before it was complete."""
