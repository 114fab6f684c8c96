"""The data of the real demo: five datasets out of Python packages, and one that no expert sees."""
