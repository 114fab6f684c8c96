"""What a plan trains on, in memory: the records of its sources, and how long each is as tokens."""

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
from training.run.encode import encoded
from training.stage import Stage


class Lengths(NamedTuple):
    """The tokens of a list of records, in numbers.

    A record that is longer than the limit has -1 in both.
    """

    tokens: list[int]
    supervised: list[int]


def check_base(plan: Plan, faults: Faults) -> bool:
    """Whether the base is the folder of a checkpoint; where not, the faults say so."""
    base = Path(plan.base)
    there = (base / "config.json").is_file()
    if not there:
        what = "has no config.json" if base.is_dir() else "is no folder here"
        faults.add(
            ("base",),
            f"{plan.base!r} {what}. Give the folder of a checkpoint; one of the hub must be downloaded first.",
        )
    return there


def opened(plan: Plan, faults: Faults) -> Measure | None:
    """What measures with the plan's base; None where that cannot be, which the faults then say."""
    if not check_base(plan, faults):
        return None
    try:
        return Measure.of(Path(plan.base))
    except TrainingError as error:
        faults.add(("base",), str(error))
        return None


def load_all(plan: Plan, faults: Faults, *, local: bool = False) -> dict[Keys, list[Record]]:
    """The records of every source, validation set and set of anchors, by its place in the plan.

    Args:
        plan: names them.
        faults: gets what is wrong with each.
        local: read only what is on this disk.
    """
    found = {}
    for place, source in _named(plan).items():
        if local and not Path(source.path).exists():
            continue
        try:
            found[place] = load(source)
        except CorpusError as error:
            faults.add(place, str(error))
    return found


def _named(plan: Plan) -> dict[Keys, Source]:
    named: dict[Keys, Source] = {("sources", name): source for name, source in plan.sources.items()}
    named |= {("validation", name): source for name, source in plan.validation.items()}
    for place, settings in plan.every_settings():
        anchors = (settings.get("group_by") or {}).get("anchors")
        if anchors is not None:
            named[(*place, "group_by", "anchors")] = anchors
    return named


@dataclass(frozen=True)
class Measure:
    """Measures records with the base's tokenizer; the same list under the same limit is measured once."""

    base: Path
    tokenizer: Any
    config: Any
    _known: dict[tuple[int, int | None], Lengths]

    @classmethod
    def of(cls, base: Path) -> Measure:
        """Opens the tokenizer and the configuration of a checkpoint.

        Raises:
            TrainingError: one of the two cannot be read.
        """
        from transformers import AutoConfig, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
            config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise TrainingError(
                f"{base}: its tokenizer or configuration cannot be read ({str(error).splitlines()[0]}). "
                "Give a folder that save_pretrained wrote, with tokenizer.json beside config.json."
            ) from None
        return cls(base, tokenizer, config, {})

    def __call__(self, records: Sequence[Record], max_length: int | None) -> Lengths:
        """Tokens of each record.

        Raises:
            TrainingError: none of them fits, or a token is not the model's.
            CorpusError: a chat that the tokenizer's template cannot write.
        """
        key = (id(records), max_length)
        if key not in self._known:
            alone = Stage(base=self.base, examples=tuple(records), steps=1, max_length=max_length)
            tokens, supervised = [-1] * len(records), [-1] * len(records)
            for row in encoded(alone, self.tokenizer, self.config).own:
                tokens[row.index], supervised[row.index] = len(row.ids), sum(row.supervised)
            self._known[key] = Lengths(tokens, supervised)
        return self._known[key]


def select_lengths(lengths: Lengths, indices: Sequence[int]) -> Lengths:
    """The lengths of some of the records, in that order."""
    return Lengths(
        [lengths.tokens[at] for at in indices], [lengths.supervised[at] for at in indices]
    )


def count_lengths(lengths: Lengths) -> Counts:
    """How much is used, and how much is left out."""
    used = [at for at, tokens in enumerate(lengths.tokens) if tokens >= 0]
    return Counts(
        examples=len(used),
        dropped_too_long=len(lengths.tokens) - len(used),
        tokens=sum(lengths.tokens[at] for at in used),
        supervised=sum(lengths.supervised[at] for at in used),
    )


def concat_lengths(parts: Iterable[Lengths]) -> Lengths:
    """One after the other."""
    whole = Lengths([], [])
    for part in parts:
        whole.tokens.extend(part.tokens)
        whole.supervised.extend(part.supervised)
    return whole
