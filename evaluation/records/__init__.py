"""Records of what was measured and what it cost: the run store, the cost ledger, and prices."""
