"""The errors of this package, so that a caller catches everything a user can cause with one name.

TrainingError    a stage or a plan that cannot be run, or not go on
└── Stopped      the caller's should_stop said so; nothing is wrong

Each message says what was given, what was expected and what to do next, in that order.
"""


class TrainingError(ValueError):
    """A stage or a plan that cannot be run; the message says why and what to change."""


class TrainingStopped(TrainingError):
    """The training was stopped by its caller; what was done so far is kept, and resume=True goes on from it."""
