"""The errors of this package: one tree, so that a caller catches everything a user can cause with one name.

MergingError
├── CheckpointError   a folder or file cannot be read as weights
├── MismatchError     weights that do not belong together: names, shapes, vocabularies, another base
├── RecipeError       a recipe, a method or a parameter that cannot be carried out
├── ExportError       the result could not be written, or does not verify
├── DeviceError       a device that is not there
└── NotMounted        a move of a slider that has to be composed: nothing is wrong, it only takes longer

Each message says what was given, what was expected and what to do next, in that order.
"""


class MergingError(Exception):
    """Anything a user of this package can cause and mend."""


class CheckpointError(MergingError):
    """A folder or file that cannot be read as weights."""


class MismatchError(MergingError):
    """Weights that do not belong together."""


class RecipeError(MergingError):
    """A recipe, a method or a parameter that cannot be carried out."""


class ExportError(MergingError):
    """A result that could not be written, or that does not verify."""


class DeviceError(MergingError):
    """A device that is not there, or that nothing is computed on here."""


class NotMounted(MergingError):
    """A move of a slider that cannot be shown without composing weights; the message says why."""
