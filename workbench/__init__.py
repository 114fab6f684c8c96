"""The application: a session with the verbs of every journey, jobs, plots, the page and the command line."""
