"""Errors whose message is for the person at the page or the command line: ours, and those of the packages below."""


class SessionError(Exception):
    """Anything a user of the workbench can cause and mend, that no package below has a word for."""


def is_user_error(error: BaseException) -> bool:
    """Whether an error's message was written for whoever reads it."""
    from corpus.errors import CorpusError
    from evaluation.errors import EvaluationError
    from merging.errors import MergingError
    from training.errors import TrainingError

    return isinstance(
        error, SessionError | MergingError | EvaluationError | CorpusError | TrainingError
    )
