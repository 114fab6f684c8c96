"""The errors of corpus. Each message is written for the person whose file it is about.

CorpusError
"""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 10
"""How many faults of a file are shown; the others are counted."""


class CorpusError(ValueError):
    """Data that cannot be used.

    The message says where (file, line, field), what was expected, and what to do.
    """


def raise_all(faults: Sequence[str], total: int, where: str = "") -> None:
    """Raises CorpusError if there are faults; a message with several shows the first ten.

    Args:
        faults: a message per record that cannot be used, in order: its place, ": ", the reason.
        total: how many records there are in all.
        where: how the message begins if there are several, and what it leaves out of each fault.
    """
    if not faults:
        return
    if len(faults) == 1:
        raise CorpusError(faults[0])
    first = f"; the first {SHOWN}" if len(faults) > SHOWN else ""
    head = f"{len(faults):,} of {total:,} records cannot be used{first}:"
    # A template refuses each chat for the same reason, which is said once.
    places: dict[str, list[str]] = {}
    for fault in faults[:SHOWN]:
        place, _, reason = fault.removeprefix(f"{where}, ").partition(": ")
        places.setdefault(reason, []).append(place)
    shown = [f"{'; '.join(at)}: {reason}" for reason, at in places.items()]
    raise CorpusError("\n  ".join([f"{where}: {head}" if where else head, *shown]))
