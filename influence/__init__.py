"""Which data would improve a model: influence of examples, of domains and of distribution vectors.

Stands on evaluation and training; workbench stands on it, and nothing else knows it.
"""
