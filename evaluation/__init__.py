"""Measures models: loads them, computes losses and benchmark scores, and records every result."""
