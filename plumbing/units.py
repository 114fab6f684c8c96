"""Writes numbers as text for users: bytes, seconds, shares and measured values."""

from __future__ import annotations

import math

MINUS = "−"


def size(nbytes: float) -> str:
    """Returns bytes in units of 1000: 512 B, 21.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def counted(count: int, noun: str) -> str:
    """Returns '1 example' or '2,000 examples'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def number(value: float, digits: int = 3) -> str:
    """Returns a measured number with fixed decimals; an em dash if it is not finite.

    The minus is U+2212, not a hyphen.
    """
    return f"{value:.{digits}f}".replace("-", MINUS) if math.isfinite(value) else "—"


def percent(share: float) -> str:
    """Returns a share in whole per cent: 0.525 gives 52 %. A share that rounds to 0 has no sign."""
    return f"{share * 100:.0f} %".replace("-0 %", "0 %").replace("-", MINUS)


def seconds(value: float) -> str:
    """Returns a duration in one or two units: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 60:
        return f"{value:.0f} s"
    if value < 3600:
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:.0f} min"
