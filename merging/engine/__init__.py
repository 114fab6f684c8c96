"""Computes merges: a recipe becomes tasks, a task becomes pieces, each of them computed once."""
