"""The cost table of DEM and data mixing (table 8 of the paper) for the open models.

The open checkpoints are the experts; added models count as trained on mixed data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.comparison.added_models import contender_from_folder, read_added
from workbench.session.keys import weights_key
from workbench.session.loss_on_axis import FULL

if TYPE_CHECKING:
    from evaluation.records.cost_table import CostTable
    from evaluation.records.ledger import Phase
    from evaluation.records.prices import Unit
    from workbench.session.session import Session

TRAINING = "training.json"
"""The file that a training leaves beside its weights; see training.run.record."""


def cost_table(
    session: Session, mixing: Sequence[str] | None = None, unit: Unit = "device_seconds"
) -> CostTable:
    """Returns what DEM and data mixing cost for the number of settings tried, from the ledger.

    It is table 8 of the DEM paper (arXiv 2406.15570).

    Args:
        session: with open models.
        mixing: names of the added models that were trained on mixed data, each with other
            proportions; None for all added models.
        unit: which time to count: "wall_seconds" or "device_seconds".

    Raises:
        SessionError: an added model is gone, or the file of their names is damaged.
        KeyError: no model with this name was added.
    """
    from evaluation.records import cost_table as table
    from evaluation.records.prices import prices

    models = session.models
    experts = {
        str(Path(path).resolve()): name
        for name, path in zip(models.names, models.checkpoints, strict=True)
    }
    added = {
        name: folder
        for name, folder in read_added(session.workdir).items()
        # One that the server may not read is named among the contenders' notes.
        if session.folders.reach.refusal(folder) is None
    }
    mixed = {str(added[name].resolve()): name for name in (added if mixing is None else mixing)}
    trainings = (recorded_training(Path(folder)) for folder in [*experts, *mixed])
    # The last training of a folder counts, so the phases of the ledger come after the files.
    by_folder = prices(
        [*(phase for phase in trainings if phase is not None), *session.ledger.phases()],
        list(experts),
        list(mixed),
        # Only the examples that fit the model's context: no sweep can have more, and prices()
        # counts only sweeps that have them all.
        examples=sum(data.prepared[FULL].datasets[0].n for data in models.data.values()),
        mixed_digests=[
            contender_from_folder(Path(folder), name).key for folder, name in mixed.items()
        ],
        # The losses of the base and of single experts are the ends of the axes. Counted as tries of
        # ω they would make DEM look dearer than it is.
        end_digests=[
            weights_key(models.recipe(omegas))
            for omegas in ({}, *({name: 1.0} for name in models.names))
        ],
        unit=unit,
    )
    # prices() knows folders only; the table shows names.
    by_name = {name: by_folder.experts[folder] for folder, name in experts.items()}
    notes = list(by_folder.notes)
    for folder, name in [*experts.items(), *mixed.items()]:
        notes = [note.replace(f"of {folder} is", f"of {name} is") for note in notes]
    return table.cost_table(replace(by_folder, experts=by_name, notes=notes), unit=unit)


def recorded_training(folder: Path) -> Phase | None:
    """Returns the training that a folder's training.json records, or None without such a file."""
    from evaluation.records.ledger import Phase

    try:
        spent = json.loads((folder / TRAINING).read_text("utf-8"))["spent"]
        return Phase(
            "training",
            folder.name,
            float(spent["wall_seconds"]),
            float(spent["device_seconds"]),
            examples=int(spent.get("examples", 0)),
            **{name: spent.get(name) for name in ("tokens", "supervised", "peak_bytes")},
            processes=int(spent.get("processes", 1)),
            device=str(spent.get("device", "cpu")),
            output=str(folder.resolve()),
        )
    # There is no such file, or another program wrote it: the training is not recorded.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
