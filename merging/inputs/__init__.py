"""The inputs of a merge, read lazily.

These are checkpoints, distribution vectors, adapters, statistics, vocabularies, and the hub.
"""
