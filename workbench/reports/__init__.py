"""Results as aligned text and JSON, for the command line."""
