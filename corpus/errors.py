"""The errors of corpus. Each message is written for the person whose file it is about.

CorpusError
"""


class CorpusError(ValueError):
    """Data that cannot be used.

    The message says where (file, line, field), what was expected, and what to do.
    """
