"""The errors of this package, in one tree: `except MergingError` catches every error of a user.

MergingError
├── CheckpointError   a folder or file cannot be read as weights
├── MismatchError     weights do not fit each other: names, shapes, vocabularies, another base
├── RecipeError       a recipe, a method or a parameter is invalid
├── ExportError       the result could not be written, or it fails verification
├── DeviceError       a device does not exist or is not supported
├── LoadError         a folder cannot be turned into a model in memory
└── NotMounted        a slider's move needs composing: nothing is wrong, it only takes longer

Each message says what was given, what was expected and what to do next, in that order.
"""


class MergingError(Exception):
    """An error that a user of this package can cause and can fix."""


class CheckpointError(MergingError):
    """A folder or file cannot be read as weights."""


class MismatchError(MergingError):
    """Weights do not fit each other."""


class RecipeError(MergingError):
    """A recipe, a method or a parameter is invalid."""


class ExportError(MergingError):
    """A result could not be written, or it fails verification."""


class DeviceError(MergingError):
    """A device does not exist, or this package does not compute on it."""


class LoadError(MergingError):
    """A folder cannot be turned into a model in memory."""


class NotMounted(MergingError):
    """A slider's move cannot be shown without composing weights; the message says why."""


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
