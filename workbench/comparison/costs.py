"""The DEM paper's table 8 for what is open in a session: its checkpoints as experts, added models as trained on mixed data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.comparison.added_models import added, of_folder
from workbench.session.keys import weights_key
from workbench.session.sizes import FULL

if TYPE_CHECKING:
    from evaluation.records.cost_table import CostTable
    from evaluation.records.ledger import Phase
    from evaluation.records.prices import Unit
    from workbench.session.session import Session

TRAINING = "training.json"
"""What stands beside the weights of a training; see the package training."""


def cost_table(
    session: Session, mixing: Sequence[str] | None = None, unit: Unit = "device_seconds"
) -> CostTable:
    """What DEM and mixing cost as a function of the settings tried, from the ledger of the workdir.

    Args:
        session: with open models.
        mixing: names of added models that were trained on mixed data, each with other proportions; all if not given.
        unit: which of the two times.

    Raises:
        SessionError: an added model that is gone, or the file of their names is damaged.
        KeyError: no model of this name was added.
    """
    from evaluation.records import cost_table as table
    from evaluation.records.prices import prices

    models = session.models
    experts = {
        str(Path(path).resolve()): name
        for name, path in zip(models.names, models.checkpoints, strict=True)
    }
    have = added(session.workdir)
    mixed = {str(have[name].resolve()): name for name in (have if mixing is None else mixing)}
    beside = (
        recorded(Path(folder)) for folder in [*experts, *mixed]
    )  # first: the ledger's, which come later, count
    found = prices(
        [*(phase for phase in beside if phase is not None), *session.ledger.phases()],
        list(experts),
        list(mixed),
        examples=sum(data.prepared[FULL].datasets[0].n for data in models.data.values()),
        mixed_digests=[of_folder(Path(folder), name).key for folder, name in mixed.items()],
        end_digests=[
            weights_key(models.recipe(omegas))
            for omegas in ({}, *({name: 1.0} for name in models.names))
        ],
        unit=unit,
    )
    named = {name: found.experts[folder] for folder, name in experts.items()}
    notes = list(found.notes)
    for folder, name in [*experts.items(), *mixed.items()]:
        notes = [note.replace(f"of {folder} is", f"of {name} is") for note in notes]
    return table.cost_table(replace(found, experts=named, notes=notes), unit=unit)


def recorded(folder: Path) -> Phase | None:
    """The training that the training.json beside some weights tells of; None where there is none that can be read."""
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
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # none, or another program's: not recorded
        return None
