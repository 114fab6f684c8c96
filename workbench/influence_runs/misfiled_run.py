"""Looks for misfiled training examples: those that fit another dataset, or no dataset at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from corpus import Record
from corpus.records import place, record_text
from evaluation.records.meter import measured
from influence.csv_tables import cell, csv_table
from influence.vectors.misfiled import MisfiledTable, misfiled_tables
from workbench.errors import SessionError

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger
    from merging import Recipe
    from merging.live.live_model import LiveModel

HEAD = (
    "dataset", "number", "suspicion", "own loss", "base loss", "drop", "better at", "loss margin",
    "margin", "cosine", "text",
)  # fmt: skip


class Suspect(NamedTuple):
    """One training example with the numbers that tell whether it is filed right.

    The fields are those of influence.vectors.misfiled.MisfiledTable, in its units.
    """

    dataset: str
    number: int
    """Number of its record in the dataset, from 0."""
    name: str
    """How messages name it: "line 17"."""
    suspicion: float
    own_loss: float
    base_loss: float
    drop: float
    better: str
    """The other expert with the lowest loss on it; "" if there is no other."""
    loss_margin: float
    margin: float
    cosine: float
    text: str


def find_misfiled(
    recipe: Recipe,
    datasets: Mapping[str, Sequence[Record]],
    *,
    ledger: Ledger | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Suspect]:
    """Returns the training examples of all datasets, the most suspicious of each first.

    Args:
        recipe: names the base and the experts; its ω do not matter.
        datasets: name of an expert -> records that it was trained on.
        ledger: where the cost is written; nowhere if None.
        progress: see influence.vectors.misfiled.misfiled_tables.
        should_stop: asked between batches.

    Raises:
        InfluenceError: a dataset has no expert of its name, or a record cannot be used.
        InfluenceStopped: `should_stop` returned True.
        MergingError, LoadError: the models cannot be opened.
        SessionError: the base has no tokenizer.
    """
    live, tokenizer = open_experts(recipe)
    with measured(ledger, "influence", "misfiled examples") as meter:
        tables = misfiled_tables(
            live, datasets, tokenizer, progress=progress, should_stop=should_stop
        )
        meter.count(sum(len(table.records) for table in tables))
    return [suspect for table in tables for suspect in _suspects(table, datasets[table.dataset])]


def open_experts(recipe: Recipe) -> tuple[LiveModel, Any]:
    """Opens the base and the experts of a recipe as one live model; returns it and its tokenizer.

    Raises:
        MergingError, LoadError: the models cannot be opened.
        SessionError: the base has no tokenizer.
    """
    from evaluation.model import load
    from merging import prepare
    from merging.live.live_model import LiveModel

    base, vectors, _ = prepare(recipe)
    loaded = load(base.path, checkpoint=base)
    if loaded.tokenizer is None:
        raise SessionError(f"{base.path} has no tokenizer. Copy the tokenizer's files into it.")
    return LiveModel(loaded.module, base, vectors, loaded.views), loaded.tokenizer


def _suspects(table: MisfiledTable, records: Sequence[Record]) -> list[Suspect]:
    """Returns the examples of one dataset, the most suspicious first, ties by number."""
    suspicions = table.suspicions.tolist()  # ranks of the whole dataset, computed once
    found = [
        Suspect(
            dataset=table.dataset,
            number=number,
            name=place(records[number], number),
            suspicion=suspicions[row],
            own_loss=float(table.own_losses[row]),
            base_loss=float(table.base_losses[row]),
            drop=float(table.drops[row]),
            better=table.others[row],
            loss_margin=float(table.loss_margins[row]),
            margin=float(table.margins[row]),
            cosine=float(table.own_cosines[row]),
            text=record_text(records[number]),
        )
        for row, number in enumerate(table.records)
    ]
    return sorted(found, key=lambda each: (-each.suspicion, each.number))


def suspects_csv(suspects: Sequence[Suspect]) -> str:
    """Returns suspects as CSV with the columns of HEAD."""
    rows = []
    for each in suspects:
        numbers = (each.suspicion, each.own_loss, each.base_loss, each.drop)
        margins = (each.loss_margin, each.margin, each.cosine)
        row = [each.dataset, each.number, *(f"{value:.6g}" for value in numbers), each.better]
        rows.append([*row, *(f"{value:.6g}" for value in margins), cell(each.text)])
    return csv_table(HEAD, rows)
