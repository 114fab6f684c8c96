"""A step's `group_by` -> the group of each of its examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus import Chat, CorpusError, Record
from corpus.grouping import Groups, by_anchors, by_kmeans, by_label, by_length
from corpus.text_encoders import sentence_transformers, tfidf
from training.errors import TrainingError
from training.plan.material import Lengths
from training.plan.settings import ANCHORS

States = Callable[[Sequence[Record], Path, int | None], Any]
"""Records, the folder of a model and one of its layers (None: its own choice) -> (N, d): mean hidden states.

`training` cannot compute them: the caller hands over the function that can.
"""


@dataclass(frozen=True)
class Grouping:
    """What groups are made with.

    Attributes:
        settings: `group_by`, as training.plan.settings reads it.
        base: the plan's base, whose states are an encoder.
        anchors: records of the anchors, where there are any.
        states: see States.
    """

    settings: Mapping[str, Any]
    base: Path
    anchors: Sequence[Record] = ()
    states: States | None = None

    def __call__(self, records: Sequence[Record], lengths: Lengths) -> Groups:
        """The groups of the records that fit; those that do not are left out of Groups.of.

        Args:
            records: a step's examples.
            lengths: their tokens.

        Raises:
            CorpusError, TrainingError: groups that cannot be made, with the numbers.
        """
        fitting = [at for at, tokens in enumerate(lengths.tokens) if tokens >= 0]
        kept = [records[at] for at in fitting]
        given = {
            key: value
            for key, value in self.settings.items()
            if key in ("bins", "edges", "k", "count")
        }
        match self.settings["metric"]:
            case "task":
                return by_label([record.label for record in kept])
            case "length":
                return by_length([lengths.supervised[at] for at in fitting], **given)
            case "anchors":
                vectors = self._vectors([*kept, *self.anchors])
                labels = [record.label for record in self.anchors]
                if set(labels) <= {ANCHORS}:
                    raise TrainingError(
                        "no anchor names its task. Give the field that does as anchors.label_field."
                    )
                return by_anchors(vectors[: len(kept)], vectors[len(kept) :], labels, **given)
            case _:
                return by_kmeans(self._vectors(kept), given["count"], self.settings.get("seed", 0))

    def _vectors(self, records: Sequence[Record]) -> Any:
        match self.settings.get("encoder", "tfidf"):
            case "sentence_transformers":
                return sentence_transformers(
                    [text(record) for record in records], self.settings["model"]
                )
            case "states":
                if self.states is None:
                    raise TrainingError(
                        "the model's own states are not at hand here. Train with `dem train`, or take encoder: tfidf."
                    )
                return self.states(records, self.base, self.settings.get("layer"))
            case _:
                given = {
                    key: self.settings[key]
                    for key in ("dimensions", "seed")
                    if key in self.settings
                }
                return tfidf([text(record) for record in records], **given)


def text(record: Record) -> str:
    """All that a record says, as an encoder reads it."""
    if isinstance(record, Chat):
        return "\n".join(message.content for message in record.messages)
    return record.prompt + record.completion


def numbers(groups: Groups, lengths: Lengths) -> tuple[int, ...]:
    """The group of every record, as a Stage wants it; what does not fit, and is left out anyway, counts to group 0."""
    of = iter(groups.of)
    return tuple(next(of) if tokens >= 0 else 0 for tokens in lengths.tokens)


def weights(groups: Groups, given: Mapping[str, float]) -> tuple[float, ...]:
    """A weight per group, from weights by name.

    Raises:
        CorpusError: names that are not the groups'.
    """
    if set(given) != set(groups.labels):
        unknown, missing = (
            sorted(set(given) - set(groups.labels)),
            sorted(set(groups.labels) - set(given)),
        )
        raise CorpusError(
            "group_weights: "
            + (f"no group is called {', '.join(unknown)}. " if unknown else "")
            + (
                f"{', '.join(missing)} {'has' if len(missing) == 1 else 'have'} no weight. "
                if missing
                else ""
            )
            + f"The groups are: {', '.join(groups.labels)}."
        )
    return tuple(given[label] for label in groups.labels)
