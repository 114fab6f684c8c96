"""The tab Data: which examples, how much of each domain, and which are in the wrong place."""
