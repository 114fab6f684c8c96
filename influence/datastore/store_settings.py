"""Everything that determines the content of a datastore.

Two datastores with equal settings have the same content, and a datastore that was begun with other
settings is refused by naming what differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from influence.errors import InfluenceError
from influence.projection.projector import Projection

RowDtype = Literal["float16", "float32"]


@dataclass(frozen=True)
class StoredSource:
    """One source of the examples. The examples of all sources are numbered in turn, from 0."""

    name: str
    examples: int
    digest: str
    """Identifies the content of the source and its order."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """One checkpoint at which gradients are taken."""

    name: str
    digest: str
    """Identifies the weights and, for "adam", the state of the optimiser."""
    mean_rate: float
    """Mean learning rate of the epoch that ended here, η̄ in LESS; scores are weighted by it."""


@dataclass(frozen=True)
class StoreSettings:
    """What a datastore holds: sources × checkpoints, and how a gradient becomes a row.

    Raises:
        InfluenceError: there is nothing to store, or two sources or checkpoints have one name.
    """

    sources: tuple[StoredSource, ...]
    checkpoints: tuple[StoredCheckpoint, ...]
    kind: str
    """The direction that is stored, such as "sgd", "sign" or "adam"."""
    projection: Projection = field(default_factory=Projection)
    dtype: RowDtype = "float16"
    """float16 has half the size. Rows have length 1, so their rounding is 1/2000 of a number."""
    tokenisation: Mapping[str, str | int | None] = field(default_factory=dict)
    """What determines the tokens of an example, such as the length limit and the chat template."""

    def __post_init__(self) -> None:
        for what, parts in (("source", self.sources), ("checkpoint", self.checkpoints)):
            names = [part.name for part in parts]
            if not names:
                raise InfluenceError(f"A datastore needs at least one {what}; none was given.")
            if len(set(names)) < len(names):
                raise InfluenceError(
                    f"Two {what}s of a datastore have the same name: {', '.join(names)}. "
                    "Rename one."
                )
        for source in self.sources:
            if source.examples < 1:
                raise InfluenceError(f"The source {source.name!r} has no examples. Leave it out.")
        if self.dtype not in get_args(RowDtype):
            raise InfluenceError(f"Rows are stored as float16 or float32, not as {self.dtype!r}.")

    @property
    def examples(self) -> int:
        """Number of examples of all sources."""
        return sum(source.examples for source in self.sources)

    def spans(self) -> dict[str, range]:
        """Returns the examples of each source: name -> their numbers in the datastore."""
        spans, start = {}, 0
        for source in self.sources:
            spans[source.name] = range(start, start + source.examples)
            start += source.examples
        return spans

    def where(self, example: int) -> str:
        """Returns an example in words, numbered from 1 within its source: "example 3 of 'cot'"."""
        for name, span in self.spans().items():
            if example in span:
                return f"example {example - span.start + 1} of {name!r}"
        raise IndexError(example)

    def text(self) -> str:
        """Returns the settings as JSON, the same text for equal settings."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, sort_keys=True)

    @classmethod
    def read(cls, file: Path) -> StoreSettings:
        """Reads what `text` wrote.

        Raises:
            InfluenceError: the file has other content.
        """
        try:
            values = json.loads(file.read_text("utf-8"))
            values["sources"] = tuple(StoredSource(**each) for each in values["sources"])
            values["checkpoints"] = tuple(
                StoredCheckpoint(**each) for each in values["checkpoints"]
            )
            values["projection"] = Projection(**values["projection"])
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise InfluenceError(
                f"{file} does not describe a datastore of this version ({error}). Delete its "
                "folder and store the gradients again."
            ) from error

    def check_same(self, other: StoreSettings, folder: Path) -> None:
        """Checks that a datastore in a folder was begun with these settings.

        Args:
            other: the settings of the datastore in the folder.
            folder: the folder, for the message.

        Raises:
            InfluenceError: they differ; the message names every setting that does.
        """
        asked, held = (_flat(json.loads(each.text())) for each in (self, other))
        changed = [
            f"{key}: the datastore has {held.get(key)!r}, and {asked.get(key)!r} was asked for"
            for key in sorted(asked.keys() | held.keys())
            if asked.get(key) != held.get(key)
        ]
        if changed:
            raise InfluenceError(
                f"{folder} holds a datastore with other settings. {'; '.join(changed)}. Use the "
                "settings of the datastore, or another folder."
            )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested values under dotted keys, and parts of a list under their names."""
    flat: dict[str, Any] = {}
    if isinstance(values, list):
        flat[f"order of the {prefix}"] = ", ".join(part["name"] for part in values)
        values = {part["name"]: part for part in values}
    if not isinstance(values, dict):
        return {prefix: values}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat
