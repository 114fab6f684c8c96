"""The application: the session with its jobs, the comparison, plans, plots, page and CLI."""
