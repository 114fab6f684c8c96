"""SessionError, and the test whether an error's message is written for the user.

The user is the person at the page or at the command line. The packages below have error trees of
their own whose messages are written for the same person.
"""


class SessionError(Exception):
    """An error that a user of the workbench can cause and fix and no package below defines."""


def is_user_error(error: BaseException) -> bool:
    """Returns whether an error's message was written for the user; otherwise it is a bug."""
    # Imported here, so that a module which only raises SessionError loads none of the packages.
    from corpus.errors import CorpusError
    from evaluation.errors import EvaluationError
    from influence.errors import InfluenceError
    from merging.errors import MergingError
    from training.errors import TrainingError

    ours = SessionError | MergingError | EvaluationError | CorpusError | TrainingError
    return isinstance(error, ours | InfluenceError)
