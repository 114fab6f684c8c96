"""Compares all checkpoints and compositions side by side, with the cost of each."""
