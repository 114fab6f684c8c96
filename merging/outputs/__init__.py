"""Writes exports, adapters and saved vectors; a folder appears complete or not at all."""
