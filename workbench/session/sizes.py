"""QUICK, FULL, Stale."""

from __future__ import annotations

from collections.abc import Callable

Stale = Callable[[], bool]


QUICK, FULL = "quick", "full"


QUICK_EXAMPLES = 12
"""Examples per dataset of the first, quick measurement; the same ones every time."""
