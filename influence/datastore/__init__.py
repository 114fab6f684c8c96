"""Projected gradients of many examples at several checkpoints, in files."""
