"""Generates the five datasets of the shipped demo from seeds."""

from corpus.demo.family import Family
from corpus.demo.splits import FAMILIES, SIZES, datasets, held_out, mixture, write

__all__ = ["FAMILIES", "SIZES", "Family", "datasets", "held_out", "mixture", "write"]
