"""The error of this package: something that a user gave cannot be used.

Each message says what was given, what was expected and what to do next, in that order.
"""


class InfluenceError(ValueError):
    """Influence cannot be computed; the message says why and what to change."""


class InfluenceStopped(InfluenceError):
    """The caller's should_stop returned True; what was finished is kept."""
