"""A unit of work, one composition on some data, and its result; both are small JSON files.

A unit is idempotent: whoever measures it, and however often, the result is the same rows of the
cache of losses. So a unit whose worker died is simply given to another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from evaluation.records.loss_cache import Entry
from workbench.session.keys import fingerprint

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger
    from evaluation.records.loss_cache import LossCache


@dataclass(frozen=True)
class Unit:
    """What to measure.

    Attributes:
        recipe: the composition as YAML, with absolute paths.
        data: the absolute folder of the datasets; their validation split is measured.
        keys: dataset -> DataSet.keys of the examples, which is the fidelity; others are left out.
        composition: Models.identity of the recipe; a worker that reads other files refuses.
        gradients: whether the derivatives of the losses are wanted too.
        groups: groups of layers by whose ω they are wanted; see workbench.search.layer_groups.
    """

    recipe: str
    data: str
    keys: Mapping[str, str]
    composition: str
    gradients: bool = False
    groups: str = ""

    @property
    def id(self) -> str:
        """Identifies what is measured, wherever its files are."""
        return fingerprint([self.composition, dict(self.keys), self.gradients, self.groups])[:20]

    def to_json(self) -> str:
        """Returns the unit as text; `from_json` reads it back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Unit:
        """Reads a unit; see `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class UnitResult:
    """What a worker found out about a unit.

    Attributes:
        id: of the unit.
        composition: the key of the losses in the cache.
        base: identity of the base.
        parts: what LossCache.describe stores; "" if sliders cannot show the composition.
        entries: key of the examples -> the loss, with that of each example.
        slopes: key of the examples -> identity of a vector -> the derivative; {} without any.
        phases: the rows of the ledger that say what it cost.
        problem: why the composition cannot be measured; "" if it was.
        fault: why no composition can be measured here, such as a missing folder; "" if they can.
    """

    id: str
    composition: str
    base: str = ""
    parts: str = ""
    entries: Mapping[str, Entry] = field(default_factory=dict)
    slopes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    phases: tuple[Mapping[str, Any], ...] = ()
    problem: str = ""
    fault: str = ""

    def to_json(self) -> str:
        """Returns the result as text; `from_json` reads it back, with every bit of the losses."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> UnitResult:
        """Reads a result; see `to_json`."""
        document = json.loads(text)
        entries = {
            key: Entry._make([*row[:5], tuple(row[5]), tuple(row[6])])
            for key, row in document.pop("entries").items()
        }
        phases = tuple(document.pop("phases"))
        return cls(entries=entries, phases=phases, **document)


def keep(result: UnitResult, book: LossCache, ledger: Ledger) -> None:
    """Stores a result in a workdir, as if it had been measured there; twice changes nothing more.

    Only the ledger counts a second time, because the work was done a second time.

    Raises:
        StoreError: a file cannot be written now.
    """
    from evaluation.records.ledger import Phase

    if result.parts:
        book.describe(result.composition, result.base, result.parts)
    for key, entry in result.entries.items():
        book.put(result.composition, key, entry)
    for key, slopes in result.slopes.items():
        book.put_slopes(result.composition, key, slopes)
    ledger.add_all([Phase(**phase) for phase in result.phases])
