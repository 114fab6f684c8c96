"""Loads the records of a plan's sources and measures how many tokens each has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from corpus import CorpusError, Record
from corpus.counts import Counts
from corpus.source import Source, load
from plumbing.strict_yaml import Keys
from training.errors import TrainingError
from training.plan.faults import Faults
from training.plan.plan import Plan
from training.run.base import open_base
from training.run.encode import encode_stage
from training.stage import Stage


class Lengths(NamedTuple):
    """The token counts of a list of records.

    A record that is longer than the limit has -1 in both lists.
    """

    tokens: list[int]
    """Number of tokens of each record, prompt and template included."""
    supervised: list[int]
    """Number of tokens of each record that the loss counts."""


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


def open_measure(plan: Plan, faults: Faults) -> Measure | None:
    """Opens the tokenizer of the plan's base; returns None and reports a fault if that fails."""
    if not check_base(plan, faults):
        return None
    try:
        return Measure.of(Path(plan.base))
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

    Several steps of a plan take the same lists, so each list is tokenised once per limit.
    """

    base: Path
    tokenizer: Any
    config: Any
    _measured: dict[tuple[int, int | None], Lengths]

    @classmethod
    def of(cls, base: Path) -> Measure:
        """Opens the tokenizer and the configuration of the checkpoint in the folder `base`.

        Raises:
            TrainingError: as training.run.base.open_base does.
        """
        opened = open_base(base)
        return cls(base, opened.tokenizer, opened.config, {})

    def __call__(self, records: Sequence[Record], max_length: int | None) -> Lengths:
        """Returns the lengths of the records.

        Args:
            records: records of a plan, as `load_all` returns them.
            max_length: largest number of tokens of a record; the tokenizer's limit if None.

        Raises:
            TrainingError: no record fits, or a token is not in the model's vocabulary.
            CorpusError: the tokenizer's template cannot write a chat.
        """
        # Lists have no hash. `load_all` keeps every list alive, so an id is never used again.
        key = (id(records), max_length)
        if key not in self._measured:
            # A stage for the sake of encode_stage, so that plan and training count the same tokens.
            stage = Stage(base=self.base, examples=tuple(records), steps=1, max_length=max_length)
            tokens, supervised = [-1] * len(records), [-1] * len(records)
            for row in encode_stage(stage, self.tokenizer, self.config).own:
                tokens[row.index], supervised[row.index] = len(row.ids), sum(row.supervised)
            self._measured[key] = Lengths(tokens, supervised)
        return self._measured[key]


def select_lengths(lengths: Lengths, indices: Sequence[int]) -> Lengths:
    """Returns the lengths of the records at `indices`, in that order."""
    return Lengths(
        [lengths.tokens[at] for at in indices], [lengths.supervised[at] for at in indices]
    )


def count_lengths(lengths: Lengths) -> Counts:
    """Counts the records and tokens that are used, and the records that are too long."""
    used = [at for at, tokens in enumerate(lengths.tokens) if tokens >= 0]
    return Counts(
        examples=len(used),
        dropped_too_long=len(lengths.tokens) - len(used),
        tokens=sum(lengths.tokens[at] for at in used),
        supervised=sum(lengths.supervised[at] for at in used),
    )


def concat_lengths(parts: Iterable[Lengths]) -> Lengths:
    """Concatenates the lengths of several lists of records."""
    whole = Lengths([], [])
    for part in parts:
        whole.tokens.extend(part.tokens)
        whole.supervised.extend(part.supervised)
    return whole
