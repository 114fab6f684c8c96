"""Ask/tell searchers of ω. Pure: a searcher proposes points and is told their scores; it knows nothing of models."""

from evaluation.search.coordinate import CoordinateSearch, Trial

__all__ = ["CoordinateSearch", "Trial"]
