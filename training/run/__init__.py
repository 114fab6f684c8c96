"""Runs one stage of training: from examples and a base to one checkpoint folder."""
