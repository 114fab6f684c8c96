"""The embedded demo: builds it from its seed, measures it, and writes its table of results."""
