"""Searches for the best ω with an ask/tell interface.

A searcher proposes points and receives their scores. It knows nothing of models.
"""

from evaluation.search.coordinate import CoordinateSearch, Trial

__all__ = ["CoordinateSearch", "Trial"]
