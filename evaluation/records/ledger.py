"""The cost ledger: what every training, search, evaluation, merge, export and influence cost.

It is one SQLite file. A row is one phase and holds the phase's own cost, so rows can be added up. A
training that was interrupted and resumed has one row per part; only the last part is complete.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from evaluation.records.database import Database, Schema
from evaluation.records.scores import now

Kind = Literal["training", "search", "evaluation", "merging", "export", "influence"]
KINDS: tuple[str, ...] = get_args(Kind)
FILE = "ledger.sqlite"
"""The ledger's name in a workdir."""


@dataclass(frozen=True)
class Phase:
    """The cost of one piece of work.

    Raises:
        ValueError: the kind is unknown, or an amount is negative, infinite or NaN.
    """

    kind: Kind
    name: str
    """What was made or measured: the step of a plan, "losses", a suite, the folder of an export."""
    wall_seconds: float
    """Time from begin to end."""
    device_seconds: float
    """Seconds for which devices were in use, summed over all processes.

    Measured between CUDA events, or as CPU time of all threads.
    """
    examples: int = 0
    """Number of examples that went through the model; each pass counts."""
    tokens: int | None = None
    """Number of tokens that went through the model; None if not counted, as in a benchmark."""
    supervised: int | None = None
    """Number of tokens that had a loss; None if not counted."""
    peak_bytes: int | None = None
    """Highest memory in bytes; None if not known.

    On an accelerator it is the allocator's, on the CPU the resident memory of the process.
    """
    device: str = "cpu"
    """"cpu", or the name of the accelerator."""
    processes: int = 1
    """Number of processes that worked together."""
    settings: int = 1
    """How many ω or mixing proportions were tried; 1 except for a search."""
    digest: str = ""
    """Digest of what decides the result: a training's settings and data, or a composition."""
    output: str = ""
    """The folder that was made, as an absolute path; empty if none was."""
    complete: bool = True
    """False if the work was stopped or failed. It counts in totals, but is no price of a run."""
    created: str = field(default_factory=now)
    """Time in UTC."""
    id: int | None = None
    """Given by the ledger."""

    def __post_init__(self) -> None:
        # Checked when a phase is made: SQLite would store NaN as NULL, and a single infinite amount
        # would spoil every total.
        if self.kind not in KINDS:
            raise ValueError(
                f"the kind of a phase is {self.kind!r}; give one of {', '.join(KINDS)}"
            )
        counts = (self.examples, self.tokens, self.supervised, self.peak_bytes)
        for amount in (self.wall_seconds, self.device_seconds, *counts):
            if amount is not None and not (math.isfinite(amount) and amount >= 0):
                raise ValueError(f"phase {self.name!r} spent {amount}; give a finite amount from 0")
        if self.settings < 1 or self.processes < 1:
            raise ValueError(
                f"phase {self.name!r}: {self.settings} settings, {self.processes} processes; "
                "give 1 or more"
            )


# Derived from the fields, so that the table and the value cannot drift apart.
COLUMNS = tuple(column.name for column in fields(Phase) if column.name != "id")
_TEXT = ("kind", "name", "device", "digest", "output", "created")
_REAL = ("wall_seconds", "device_seconds")
_TYPES = dict.fromkeys(_TEXT, "TEXT") | dict.fromkeys(_REAL, "REAL")
_DECLARED = ", ".join(f'"{name}" {_TYPES.get(name, "INTEGER")}' for name in COLUMNS)
# AUTOINCREMENT never gives an id twice, so the order of ids is the order of time.
_TABLE = f"""
CREATE TABLE phases (id INTEGER PRIMARY KEY AUTOINCREMENT, {_DECLARED});
CREATE INDEX phases_of_digest ON phases (digest)
"""
SCHEMA = Schema(version=1, statements=_TABLE, holds="cost ledger")


class Total(NamedTuple):
    """The sums over several phases."""

    phases: int
    """Number of phases."""
    wall_seconds: float
    device_seconds: float
    examples: int
    tokens: int
    """Sum over the phases that counted tokens."""
    peak_bytes: int | None
    """The highest peak of any phase; None if no peak is known."""


class Training(NamedTuple):
    """One finished training, including its parts that were interrupted before."""

    name: str
    output: str
    digest: str
    wall_seconds: float
    device_seconds: float
    examples: int
    device: str

    def is_called(self, reference: str) -> bool:
        """Whether `reference` is the name of this training, or the folder that it made."""
        return bool(reference) and reference in (self.name, self.output)


class Ledger:
    """The phases of one workdir. It can be used from any thread and by several processes at once.

    Args:
        path: the database file. If it does not exist it is created, with its folder.
        say: called with one sentence if a damaged file was set aside.

    Raises:
        StoreError: the path cannot be written, or a newer version of this program made the file.
    """

    def __init__(self, path: str | Path, say: Callable[[str], None] = lambda message: None) -> None:
        self._database = Database(Path(path), SCHEMA, say)
        self.path, self.message = self._database.path, self._database.message

    def add(
        self, kind: Kind, name: str, *, wall_seconds: float, device_seconds: float, **more: Any
    ) -> int:
        """Stores one phase and returns its id. The phase is on disk when this returns.

        Args:
            kind, name, wall_seconds, device_seconds: as in Phase.
            more: further fields of Phase.

        Raises:
            ValueError: as Phase.
            StoreError: the file cannot be written now.
        """
        return self.add_all([Phase(kind, name, wall_seconds, device_seconds, **more)])[0]

    def add_all(self, phases: Iterable[Phase]) -> list[int]:
        """Stores phases that belong together, and returns their ids: all of them, or none."""
        rows = [[getattr(phase, name) for name in COLUMNS] for phase in phases]
        return self._database.insert("phases", COLUMNS, rows)

    def phases(self, kind: Kind | None = None, *, digest: str | None = None) -> list[Phase]:
        """Returns the phases, oldest first.

        Args:
            kind: return only phases of this kind.
            digest: return only phases of this composition or training.
        """
        wanted = {"kind": kind, "digest": digest}
        filters = {name: value for name, value in wanted.items() if value is not None}
        condition = "WHERE " + " AND ".join(f"{name} = ?" for name in filters) if filters else ""
        names = ", ".join(f'"{name}"' for name in ("id", *COLUMNS))
        rows = self._database.rows(
            f"SELECT {names} FROM phases {condition} ORDER BY id", list(filters.values())
        )
        return [_phase(row) for row in rows]

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        self._database.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _phase(row: tuple[Any, ...]) -> Phase:
    """Returns the phase that a row of the table holds; SQLite stores a bool as a number."""
    values: dict[str, Any] = dict(zip(("id", *COLUMNS), row, strict=True))
    return Phase(**values | {"complete": bool(values["complete"])})


def total(phases: Sequence[Phase]) -> Total:
    """Adds up phases, including those that were stopped: their cost was paid too."""
    peaks = [phase.peak_bytes for phase in phases if phase.peak_bytes is not None]
    return Total(
        len(phases),
        math.fsum(phase.wall_seconds for phase in phases),
        math.fsum(phase.device_seconds for phase in phases),
        sum(phase.examples for phase in phases),
        sum(phase.tokens or 0 for phase in phases),
        max(peaks, default=None),
    )


def trainings(phases: Iterable[Phase]) -> list[Training]:
    """Returns the finished trainings, in the order in which they ended.

    A part of the same training (name, folder and digest) that was interrupted since the training
    last ended counts with it.

    Args:
        phases: oldest first.
    """
    parts: dict[tuple[str, str, str], list[Phase]] = {}
    finished = []
    for phase in phases:
        if phase.kind != "training":
            continue
        # With another digest it is another training, even under the same name and folder.
        key = (phase.name, phase.output, phase.digest)
        parts.setdefault(key, []).append(phase)
        if phase.complete:
            spent = total(parts.pop(key))
            amounts = (spent.wall_seconds, spent.device_seconds, spent.examples)
            finished.append(Training(*key, *amounts, phase.device))
    return finished
