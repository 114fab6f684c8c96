"""A comparison and its costs as plain text for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.reports.text_table import on_its_side, table

if TYPE_CHECKING:
    from evaluation.records.cost_table import CostTable
    from workbench.comparison.table import Comparison

OF, IS = "the training of ", " is not in the ledger"
"""How a note of evaluation.records.prices begins and ends; several such notes become one line."""


def comparison(compared: "Comparison", missing: Sequence[str]) -> str:
    """Returns the table with one column per model, then its notes and what is not measured.

    Args:
        compared: the comparison.
        missing: what is not measured, a phrase each.
    """
    lines = [on_its_side(compared.cells()), "", "loss in nats per token; seconds of the device"]
    lines += [f"note: {note}" for note in (*compared.notes, *unrecorded(compared))]
    lines += [f"not measured: {words}" for words in missing]
    return "\n".join(lines)


def unrecorded(compared: "Comparison") -> list[str]:
    """Returns one sentence that names the checkpoints without a recorded training; [] if none."""
    # A checkpoint takes part in several rows and is to be named once.
    names = dict.fromkeys(name for line in compared.lines for name in line.expense.unrecorded)
    return [f"no training cost is recorded of {', '.join(names)}"] if names else []


def costs(cost_table: "CostTable") -> str:
    """Returns the cost table (table 8 of the DEM paper) with its crossover and notes."""
    title = (
        f"What DEM and data mixing cost, in {cost_table.unit.replace('_', ' ')}; "
        "~ is projected, all else measured"
    )
    return "\n".join(
        [title, table(cost_table.cells()), *(f"note: {note}" for note in cost_notes(cost_table))]
    )


def cost_notes(cost_table: "CostTable") -> list[str]:
    """Returns from how many settings on DEM is cheaper, then the notes on the prices."""
    start = cost_table.crossover
    if start is not None:
        settings = f"{start.value:g} setting{'' if start.value == 1 else 's'}"
        first = f"DEM costs less than mixing tuned over as many, from {settings} on ({start.how})"
    else:
        priced = any(row.dem and row.mixing for row in cost_table.rows)
        first = (
            "DEM never costs less than mixing tuned over as many"
            if priced
            else "a price is missing"
        )
    unknown = [
        note.removeprefix(OF).removesuffix(IS) for note in cost_table.notes if note.endswith(IS)
    ]
    rest = [note for note in cost_table.notes if not note.endswith(IS)]
    # One line for all missing trainings: the cost table has a note for each of them.
    if unknown:
        trainings, are = ("trainings", "are") if len(unknown) > 1 else ("training", "is")
        rest.insert(0, f"the {trainings} of {', '.join(unknown)} {are} not in the ledger")
    return [first, *rest]
