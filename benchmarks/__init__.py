"""Benchmarks: one file per claim about speed or memory. Each prints a table."""
