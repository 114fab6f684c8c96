"""What was measured and what it cost: runs, ledger, prices."""
