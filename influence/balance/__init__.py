"""How much of each domain to train on: IDEAL, DoReMi, DOGE."""
