"""Preflight: every incompatibility of base, checkpoints and recipe, from headers only, all at once, each with its fix."""

from merging.preflight.preflight import Opened, check, preflight, prepare
from merging.preflight.problem import Problem

__all__ = ["Opened", "Problem", "check", "preflight", "prepare"]
