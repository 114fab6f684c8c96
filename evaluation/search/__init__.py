"""Searches for the best ω with an ask/tell interface.

A searcher proposes points and is told what was measured there. It knows nothing of models.
"""

from evaluation.search.contract import Measured, Searcher, Space, Trial
from evaluation.search.coordinate import CoordinateSearch

__all__ = ["CoordinateSearch", "Measured", "Searcher", "Space", "Trial"]
