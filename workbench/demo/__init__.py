"""The embedded demo: building it from its seeds, measuring it, its table of results."""
