"""Runs of influence: studies of a pool, balances of domains, vectors, mixtures, misfiled data."""
