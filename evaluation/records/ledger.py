"""The cost ledger: what every training, search, evaluation, merge and export spent. SQLite, one file per workdir.

One row is one phase. Its numbers are what the phase itself spent, so that rows add up: a run that was broken off and
resumed has one row for each part, and only the last of them is complete.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from evaluation.records.database import Database, Schema
from evaluation.records.scores import now

Kind = Literal["training", "search", "evaluation", "merging", "export"]
KINDS: tuple[str, ...] = get_args(Kind)
FILE = "ledger.sqlite"
"""The ledger's name in a workdir."""


@dataclass(frozen=True)
class Phase:
    """What one piece of work spent.

    Raises:
        ValueError: an unknown kind, or an amount that is negative or no number.
    """

    kind: Kind
    name: str
    """What was made or measured: the step of a plan, "losses", a suite, the folder of an export."""
    wall_seconds: float
    device_seconds: float
    """Seconds for which devices were held, over all processes: time between CUDA events, or CPU time of all threads."""
    examples: int = 0
    """Examples that went through the model, each pass counted."""
    tokens: int | None = None
    """Tokens that went through the model; None where nobody counted, as in a benchmark."""
    supervised: int | None = None
    """Those that had a loss."""
    peak_bytes: int | None = None
    """Highest memory: of the allocator on an accelerator, else resident memory of the process; None if not known."""
    device: str = "cpu"
    processes: int = 1
    settings: int = 1
    """How many ω or mixing proportions were tried: 1, but for a search."""
    digest: str = ""
    """Of what decides the result: a training's settings and data, or a composition."""
    output: str = ""
    """The folder that was made, absolute; empty where none was."""
    complete: bool = True
    """False for what was stopped or failed: it counts in totals, and is no price of a whole run."""
    created: str = field(default_factory=now)
    id: int | None = None
    """Given by the ledger."""

    def __post_init__(self) -> None:
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
                f"phase {self.name!r}: {self.settings} settings, {self.processes} processes; give 1 or more"
            )


COLUMNS = tuple(column.name for column in fields(Phase) if column.name != "id")
_TEXT = ("kind", "name", "device", "digest", "output", "created")
_REAL = ("wall_seconds", "device_seconds")
_TYPES = dict.fromkeys(_TEXT, "TEXT") | dict.fromkeys(_REAL, "REAL")
_TABLE = f"""
CREATE TABLE phases (id INTEGER PRIMARY KEY AUTOINCREMENT, {", ".join(f'"{name}" {_TYPES.get(name, "INTEGER")}' for name in COLUMNS)});
CREATE INDEX phases_of_digest ON phases (digest)
"""
SCHEMA = Schema(version=1, statements=_TABLE, holds="cost ledger")


class Total(NamedTuple):
    """Several phases added up."""

    phases: int
    wall_seconds: float
    device_seconds: float
    examples: int
    tokens: int
    """Of the phases that counted them."""
    peak_bytes: int | None
    """The highest of them; None where none is known."""


class Training(NamedTuple):
    """One finished training, with the parts that were broken off before it."""

    name: str
    output: str
    digest: str
    wall_seconds: float
    device_seconds: float
    examples: int
    device: str

    def is_called(self, reference: str) -> bool:
        """Whether a name, or the folder it made, means this training."""
        return bool(reference) and reference in (self.name, self.output)


class Ledger:
    """The phases of one working directory. May be used from any thread, and by several processes at once.

    Args:
        path: the database file; made, with its folder, where it is not there.
        say: told in one sentence when a damaged file was set aside.

    Raises:
        StoreError: the path cannot be written, or a newer version of this program made the file.
    """

    def __init__(self, path: str | Path, say: Callable[[str], None] = lambda message: None) -> None:
        self._database = Database(Path(path), SCHEMA, say)
        self.path, self.message = self._database.path, self._database.message

    def add(
        self, kind: Kind, name: str, *, wall_seconds: float, device_seconds: float, **more: Any
    ) -> int:
        """Store one phase from plain values, the fields of Phase, and return its id; it is on disk when this returns.

        Raises:
            ValueError: see Phase.
            StoreError: the file cannot be written now.
        """
        return self.add_all([Phase(kind, name, wall_seconds, device_seconds, **more)])[0]

    def add_all(self, phases: Iterable[Phase]) -> list[int]:
        """Store phases that belong together: all of them or, when anything fails, none."""
        rows = [[getattr(phase, name) for name in COLUMNS] for phase in phases]
        return self._database.insert("phases", COLUMNS, rows)

    def phases(self, kind: Kind | None = None, *, digest: str | None = None) -> list[Phase]:
        """What was spent, oldest first; of one kind, or one composition or training, where it is given."""
        wanted = {"kind": kind, "digest": digest}
        given = {name: value for name, value in wanted.items() if value is not None}
        where = "WHERE " + " AND ".join(f"{name} = ?" for name in given) if given else ""
        names = ", ".join(f'"{name}"' for name in ("id", *COLUMNS))
        rows = self._database.rows(
            f"SELECT {names} FROM phases {where} ORDER BY id", list(given.values())
        )
        return [_phase(row) for row in rows]

    def close(self) -> None:
        """Close the file. Calling it again does nothing."""
        self._database.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _phase(row: tuple[Any, ...]) -> Phase:
    found: dict[str, Any] = dict(zip(("id", *COLUMNS), row, strict=True))
    return Phase(**found | {"complete": bool(found["complete"])})


def total(phases: Sequence[Phase]) -> Total:
    """Phases added up, those that were stopped as well: they were paid for."""
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
    """The finished trainings among phases given oldest first, in the order in which they ended.

    Parts of the same training (name, folder and digest) that were broken off since its last end count with it.
    """
    parts: dict[tuple[str, str, str], list[Phase]] = {}
    found = []
    for phase in phases:
        if phase.kind != "training":
            continue
        key = (phase.name, phase.output, phase.digest)
        parts.setdefault(key, []).append(phase)
        if phase.complete:
            spent = total(parts.pop(key))
            amounts = (spent.wall_seconds, spent.device_seconds, spent.examples)
            found.append(Training(*key, *amounts, phase.device))
    return found
