"""Searches ω on the open models: what to search for, measuring of points, the loop, its report."""
