"""Loads the records of a plan's sources and measures how many tokens each has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from corpus import CorpusError, Record, check_template, split_chats
from corpus.counts import Counts
from corpus.selection import load
from corpus.source import Source
from plumbing.strict_yaml import Keys
from training.errors import TrainingError
from training.plan.faults import Faults
from training.plan.plan import Plan
from training.run.base import open_base
from training.run.encode import encode_stage
from training.run.shared import Shared
from training.stage import Stage


class Lengths(NamedTuple):
    """The token counts of a list of records, each of which is one example.

    A record that is longer than the limit has -1 in the first two lists.
    """

    tokens: list[int]
    """Number of tokens of each record, prompt and template included."""
    supervised: list[int]
    """Number of tokens of each record that the loss counts."""
    part: list[int]
    """1 for each record that is one answer of a longer chat, 0 for the others."""
    cut: list[int]
    """1 for each record that is cut off at the limit, 0 for the others."""
    stops: list[int]
    """1 for each record from which the model learns to stop, 0 for the others."""


def check_base(plan: Plan, faults: Faults) -> bool:
    """Returns whether the base is the folder of a checkpoint, and reports a fault if it is not."""
    base = Path(plan.base)
    if message := plan.reach.refusal(base):
        faults.add(("base",), message)
        return False
    is_model_folder = (base / "config.json").is_file()
    if not is_model_folder:
        what = "has no config.json" if base.is_dir() else "is not a folder on this machine"
        faults.add(
            ("base",),
            f"{plan.base!r} {what}. Give the folder of a checkpoint. "
            "Download a model of the hub first.",
        )
    return is_model_folder


def open_measure(plan: Plan, shared: Shared, faults: Faults) -> Measure | None:
    """Opens the tokenizer of the plan's base; returns None and reports a fault if that fails."""
    if not check_base(plan, faults):
        return None
    try:
        return Measure.of(Path(plan.base), shared)
    except TrainingError as error:
        faults.add(("base",), str(error))
        return None


def load_all(plan: Plan, faults: Faults, *, local: bool = False) -> dict[Keys, list[Record]]:
    """Loads the records of every source, validation set and set of anchors.

    Args:
        plan: the plan that names them.
        faults: gets what is wrong with each; such a set is left out of the result.
        local: whether to skip sources that are not on this disk.

    Returns:
        The keys of the source in the plan, ("sources", "math") for example -> its records.
    """
    records = {}
    for keys, source in _sources_by_keys(plan).items():
        # Otherwise the hub would be asked, for up to 23 s, for a plan that is refused anyway.
        if local and (plan.reach.refusal(source.path) or not Path(source.path).exists()):
            continue
        try:
            records[keys] = load(source, reach=plan.reach)
        except CorpusError as error:
            faults.add(keys, str(error))
    return records


def _sources_by_keys(plan: Plan) -> dict[Keys, Source]:
    """Returns every source of a plan by its keys: sources, validation sets and anchors."""
    sources: dict[Keys, Source] = {
        ("sources", name): source for name, source in plan.sources.items()
    }
    sources |= {("validation", name): source for name, source in plan.validation.items()}
    for keys, settings in plan.every_settings():
        anchors = (settings.get("group_by") or {}).get("anchors")
        if anchors is not None:
            sources[(*keys, "group_by", "anchors")] = anchors
    return sources


@dataclass(frozen=True)
class Measure:
    """Counts the tokens of records with the base's tokenizer, and remembers the counts.

    The tokens themselves are kept in `shared`, for the training.
    """

    base: Path
    tokenizer: Any
    config: Any
    shared: Shared
    _measured: dict[tuple[int, str], Lengths]

    @classmethod
    def of(cls, base: Path, shared: Shared) -> Measure:
        """Opens the tokenizer and the configuration of the checkpoint in the folder `base`.

        Raises:
            TrainingError: as training.run.base.open_base does.
        """
        opened = open_base(base)
        return cls(base, opened.tokenizer, opened.config, shared, {})

    def __call__(self, records: Sequence[Record], settings: Mapping[str, Any]) -> Lengths:
        """Returns the lengths of the records.

        Args:
            records: records of a plan, as `load_all` returns them.
            settings: settings of a plan; `max_length` and `too_long` count.

        Raises:
            TrainingError: no record fits, or a token is not in the model's vocabulary.
            CorpusError: the tokenizer's template cannot write a chat.
        """
        # Lists have no hash. `load_all` keeps every list alive, so an id is never used again.
        limit = {key: settings[key] for key in ("max_length", "too_long") if key in settings}
        key = (id(records), repr(limit))
        if key not in self._measured:
            # A stage for the sake of encode_stage, so that plan and training count the same tokens.
            stage = Stage(base=self.base, examples=tuple(records), steps=1, **limit)
            size = len(records)
            found = Lengths([-1] * size, [-1] * size, [0] * size, [0] * size, [1] * size)
            for row in encode_stage(stage, self.tokenizer, self.config, self.shared).own:
                found.tokens[row.index], found.supervised[row.index] = len(row.ids), row.learned
                found.part[row.index], found.stops[row.index] = row.part, row.stops
                found.cut[row.index] = row.cut
            self._measured[key] = found
        return self._measured[key]

    def split(self, records: Sequence[Record]) -> list[Record]:
        """Returns the records, with a chat that the template needs several examples for in parts.

        Raises:
            CorpusError: the template cannot write a chat; see corpus.check_template.
        """
        known = self.shared.known(self.tokenizer)
        check_template(self.tokenizer, [record for record in records if record not in known])
        return split_chats(records, self.tokenizer, known)


def select_lengths(lengths: Lengths, indices: Sequence[int]) -> Lengths:
    """Returns the lengths of the records at `indices`, in that order."""
    return Lengths(*([column[at] for at in indices] for column in lengths))


def count_lengths(lengths: Lengths) -> Counts:
    """Counts the records and tokens that are used, and the records that are too long."""
    used = [at for at, tokens in enumerate(lengths.tokens) if tokens >= 0]
    return Counts(
        examples=len(used),
        dropped_too_long=len(lengths.tokens) - len(used),
        tokens=sum(lengths.tokens[at] for at in used),
        supervised=sum(lengths.supervised[at] for at in used),
        parts=sum(lengths.part[at] for at in used),
        cut=sum(lengths.cut[at] for at in used),
        endless=len(used) - sum(lengths.stops[at] for at in used),
    )


def concat_lengths(parts: Iterable[Lengths]) -> Lengths:
    """Concatenates the lengths of several lists of records."""
    whole = Lengths([], [], [], [], [])
    for part in parts:
        for column, more in zip(whole, part, strict=True):
            column.extend(more)
    return whole
