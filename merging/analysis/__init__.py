"""Facts about a merge that are computed from the weights: geometry of the vectors, cost of rounding."""
