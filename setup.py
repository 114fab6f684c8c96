"""Packages of the wheel. Everything else about them is in pyproject.toml.

The wheel carries assets/ as the package data of `workbench.assets` (see plumbing/paths.py). This
needs a file of its own because pyproject.toml can either search for packages or list them, and
`workbench.assets` is not where a search would look for it.
"""

from setuptools import find_namespace_packages, setup

OURS = ["plumbing*", "merging*", "corpus*", "evaluation*", "training*", "influence*", "workbench*"]

setup(
    packages=[*find_namespace_packages(include=OURS), "workbench.assets"],
    package_dir={"workbench.assets": "assets"},
)
