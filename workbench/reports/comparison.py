"""A comparison and its costs as plain text for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.reports import tables

if TYPE_CHECKING:
    from evaluation.records.cost_table import CostTable
    from workbench.comparison.table import Comparison

OF, IS = "the training of ", " is not in the ledger"
"""A note of evaluation.records.prices; several of them are told as one."""


def comparison(found: "Comparison", missing: Sequence[str]) -> str:
    """The table, what a reader should know of it, and what is not measured, a line each."""
    lines = [tables.table(found.cells()), "loss in nats per token; seconds of the device"]
    lines += [f"note: {note}" for note in (*found.notes, *unrecorded(found))]
    lines += [f"not measured: {words}" for words in missing]
    return "\n".join(lines)


def unrecorded(found: "Comparison") -> list[str]:
    """The checkpoints whose training cost is not known, in one sentence; [] where all are."""
    names = dict.fromkeys(name for line in found.lines for name in line.expense.unrecorded)
    return [f"no training cost is recorded of {', '.join(names)}"] if names else []


def costs(found: "CostTable") -> str:
    """Table 8 with its crossover and notes."""
    title = f"What DEM and data mixing cost, in {found.unit.replace('_', ' ')}; ~ is projected, all else measured"
    return "\n".join(
        [title, tables.table(found.cells()), *(f"note: {note}" for note in cost_notes(found))]
    )


def cost_notes(found: "CostTable") -> list[str]:
    """From how many settings on DEM is cheaper, and what a reader should know of the prices."""
    known = any(row.dem and row.mixing for row in found.rows)
    if found.crossover is not None:
        many = f"{found.crossover.value:g} setting{'' if found.crossover.value == 1 else 's'}"
        first = (
            f"DEM costs less than mixing tuned over as many, from {many} on ({found.crossover.how})"
        )
    else:
        first = (
            "DEM never costs less than mixing tuned over as many" if known else "a price is missing"
        )
    unknown = [note.removeprefix(OF).removesuffix(IS) for note in found.notes if note.endswith(IS)]
    rest = [note for note in found.notes if not note.endswith(IS)]
    some = [
        f"the training{'s' if len(unknown) > 1 else ''} of {', '.join(unknown)} {'are' if len(unknown) > 1 else 'is'}"
    ]
    return [first, *(f"{words} not in the ledger" for words in some if unknown), *rest]
