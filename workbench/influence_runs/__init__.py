"""Runs of influence: studies of a pool of training data, balances of domains, misfiled examples."""
