"""The errors of this package, as one tree: `except EvaluationError` catches all of them.

EvaluationError
├── LoadError      a folder cannot be turned into a model
├── DataError      examples cannot be scored
├── TaskError      a benchmark task is unknown or refused, or its data is not available
├── StoreError     the run store cannot be opened or written
└── Stopped        `should_stop` returned True; nothing is wrong

Each message says what was given, what was expected and what to do next, in that order.
"""


class EvaluationError(Exception):
    """Anything that a user of this package can cause and correct."""


class LoadError(EvaluationError):
    """A folder cannot be turned into a model."""


class DataError(EvaluationError):
    """Examples cannot be scored."""


class TaskError(EvaluationError):
    """A benchmark task is unknown or refused, or its data is not available."""


class StoreError(EvaluationError):
    """The run store cannot be opened or written."""


class Stopped(EvaluationError):
    """The caller stopped the measurement before it was complete."""


def cause(error: BaseException) -> str:
    """Returns the whole text of an exception on one line, without a full stop at its end.

    Libraries put a heading on the first line and the reason on the next ones, so no line may be
    left out. The name of the exception's class stands in for an empty text.

    >>> cause(ValueError("validator 'shape':\\n    hidden size (99) is odd."))
    "validator 'shape': hidden size (99) is odd"
    """
    # The text of a KeyError is the repr of its argument, in which line ends are escaped.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
