"""One file for each claim of speed or size; each prints a table."""
