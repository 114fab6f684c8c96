"""The version, in a file of its own so that no module of merging imports the package itself."""

__version__ = "0.1.0"
