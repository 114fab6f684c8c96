"""Measures merges from their weights: the geometry of vectors and the cost of rounding."""
