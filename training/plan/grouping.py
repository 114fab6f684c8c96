"""Puts the examples of a step into groups, as the plan's `group_by` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus import CorpusError, Record
from corpus.grouping import Groups, by_anchors, by_kmeans, by_label, by_length
from corpus.records import record_text
from corpus.text_encoders import sentence_transformers, tfidf
from training.errors import TrainingError
from training.plan.encoder_folder import check_encoder
from training.plan.material import Lengths
from training.plan.settings import ANCHORS

States = Callable[[Sequence[Record], Path, int | None], Any]
"""A function that computes the mean hidden states of records.

It takes N records, the folder of a model and one of its layers (None: the function chooses one),
and returns an array of shape (N, d). `training` may not import `evaluation`, which computes hidden
states, so the caller passes the function.
"""


@dataclass(frozen=True)
class Grouping:
    """A function that groups records, made from a plan's `group_by`.

    Attributes:
        settings: `group_by` as training.plan.settings reads it.
        base: folder of the plan's base, whose hidden states `encoder: states` uses.
        anchors: records of the anchors; only `metric: anchors` needs them.
        states: computes hidden states; only `encoder: states` needs it.
    """

    settings: Mapping[str, Any]
    base: Path
    anchors: Sequence[Record] = ()
    states: States | None = None

    def __call__(self, records: Sequence[Record], lengths: Lengths) -> Groups:
        """Returns the groups of the records that are not too long.

        Groups.of has no entry for a record that is too long.

        Args:
            records: the examples of a step.
            lengths: the lengths of these examples.

        Raises:
            CorpusError: the groups cannot be made; the message gives the numbers.
            TrainingError: no anchor has a label, or hidden states cannot be computed here.
        """
        fitting = [at for at, tokens in enumerate(lengths.tokens) if tokens >= 0]
        kept = [records[at] for at in fitting]
        options = {
            key: value
            for key, value in self.settings.items()
            if key in ("bins", "edges", "k", "count")
        }
        match self.settings["metric"]:
            case "task":
                return by_label([record.label for record in kept])
            case "length":
                return by_length([lengths.supervised[at] for at in fitting], **options)
            case "anchors":
                # In one call, because TF-IDF vectors of two calls cannot be compared.
                vectors = self._vectors([*kept, *self.anchors])
                labels = [record.label for record in self.anchors]
                # A record without a label gets the name of its source, so these are all unlabelled.
                if set(labels) <= {ANCHORS}:
                    raise TrainingError(
                        "no anchor names its task. Give the field that does as anchors.label_field."
                    )
                return by_anchors(vectors[: len(kept)], vectors[len(kept) :], labels, **options)
            case _:
                seed = self.settings.get("seed", 0)
                return by_kmeans(self._vectors(kept), options["count"], seed)

    def _vectors(self, records: Sequence[Record]) -> Any:
        """Returns one vector per record from the chosen encoder, as an array of shape (N, d)."""
        match self.settings.get("encoder", "tfidf"):
            case "sentence_transformers":
                model = self.settings["model"]
                if Path(model).expanduser().is_dir():
                    check_encoder(Path(model).expanduser())
                return sentence_transformers([record_text(record) for record in records], model)
            case "states":
                if self.states is None:
                    raise TrainingError(
                        "the model's own hidden states cannot be computed here. "
                        "Train with `dem train`, or give encoder: tfidf."
                    )
                return self.states(records, self.base, self.settings.get("layer"))
            case _:
                options = {
                    key: self.settings[key]
                    for key in ("dimensions", "seed")
                    if key in self.settings
                }
                return tfidf([record_text(record) for record in records], **options)


def group_numbers(groups: Groups, lengths: Lengths) -> tuple[int, ...]:
    """Returns one group number per record, as Stage.groups needs it.

    A record that is too long gets group 0. The stage leaves it out anyway.
    """
    group_of = iter(groups.of)
    return tuple(next(group_of) if tokens >= 0 else 0 for tokens in lengths.tokens)


def group_weights(groups: Groups, weight_of: Mapping[str, float]) -> tuple[float, ...]:
    """Returns the weight of each group, in the order of the groups.

    Args:
        groups: the groups with their names.
        weight_of: name of a group -> its weight.

    Raises:
        CorpusError: a group has no weight, or a weight has no group.
    """
    # Every group needs a weight, because any default would be a guess about the data.
    if set(weight_of) != set(groups.labels):
        unknown, missing = (
            sorted(set(weight_of) - set(groups.labels)),
            sorted(set(groups.labels) - set(weight_of)),
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
    return tuple(weight_of[label] for label in groups.labels)
