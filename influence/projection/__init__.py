"""Random projections of gradients to a few thousand numbers that keep cosines."""
