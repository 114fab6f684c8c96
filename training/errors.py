"""The errors of this package: one base class catches everything that a user can cause.

TrainingError           a stage or a plan cannot be run or continued
├── PlanError           every fault of a plan at once; see training.plan.faults
└── TrainingStopped     the caller's should_stop returned True; nothing is wrong

Each message says what was given, what was expected and what to do next, in that order.
"""


class TrainingError(ValueError):
    """A stage or a plan cannot be run; the message says why and what to change."""


class TrainingStopped(TrainingError):
    """The caller stopped the training; its state is saved, and resume=True continues from there."""
