"""Exports, adapters and saved vectors, written so that a folder is whole and verified, or not there."""
