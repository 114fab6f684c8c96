"""The errors of corpus: one tree, each message written for the person whose file it is.

CorpusError
"""


class CorpusError(ValueError):
    """Data that cannot be used. The message says where (file, line, field), what was expected, and what to do."""
