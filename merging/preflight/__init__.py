"""Reports every incompatibility of base, checkpoints and recipe before a merge, each with its fix.

Only headers, configurations and a few sampled blocks are read.
"""

from merging.preflight.preflight import Opened, check, preflight, prepare
from merging.preflight.problem import Problem

__all__ = ["Opened", "Problem", "check", "preflight", "prepare"]
