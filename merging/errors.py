"""The errors of this package, in one tree: `except MergingError` catches every error of a user.

MergingError
├── CheckpointError   a folder or file cannot be read as weights
├── MismatchError     weights do not fit each other: names, shapes, vocabularies, another base
├── RecipeError       a recipe, a method or a parameter is invalid
├── ExportError       the result could not be written, or it fails verification
├── DeviceError       a device does not exist or is not supported
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


class NotMounted(MergingError):
    """A slider's move cannot be shown without composing weights; the message says why."""
