"""The two sizes of a loss measurement: a few examples of each dataset, or all of them."""

from __future__ import annotations

QUICK, FULL = "quick", "full"

QUICK_EXAMPLES = 12
"""Examples per dataset of the quick measurement; always the first ones."""
