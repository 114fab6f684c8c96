"""The version; in its own file so that modules of merging need not import the package itself."""

__version__ = "0.1.0"
