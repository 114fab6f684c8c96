"""Encodes the examples of a stage as tokens and counts them.

Data that cannot be trained on is refused here, before any weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from corpus.chat_tokens import check_template
from corpus.counts import Counts, count
from corpus.errors import CorpusError
from corpus.records import Record
from corpus.tokens import Encoded, encode_all
from training.errors import TrainingError
from training.run.shared import Shared
from training.stage import Stage

UNLIMITED = 10**9
"""From this limit on, a tokenizer's limit means "no limit".

transformers reports 10^30 as the model_max_length of a tokenizer that has none.
"""


class Data(NamedTuple):
    """The data of a stage as tokens. Records that are too long are left out."""

    own: list[Encoded]
    """The stage's examples."""
    rehearsed: list[Encoded]
    """Its replay examples."""
    validation: dict[str, list[Encoded]]
    """Name of a validation set -> its examples."""
    groups: list[int]
    """Group number of each example of `own`; empty if the stage has no groups."""
    counts: dict[str, Counts]
    """Counts of "examples", "replay" and "validation/<name>"."""

    @property
    def all(self) -> list[Encoded]:
        """The stage's own examples, then the replay examples: the numbering of the batches."""
        return self.own + self.rehearsed


def encode_stage(stage: Stage, tokenizer: Any, config: Any, shared: Shared) -> Data:
    """Tokenises all data of a stage.

    Args:
        stage: the stage.
        tokenizer: the tokenizer of its base.
        config: the transformers configuration of its base.
        shared: remembers the tokens of every record.

    Raises:
        TrainingError: no record of a dataset fits, or a token is not in the model's vocabulary.
        CorpusError: the tokenizer's template cannot write a chat.
    """
    limit = _limit(stage, tokenizer, config)
    sets: dict[str, Sequence[Record]] = {"examples": stage.examples, "replay": stage.replay}
    sets |= {f"validation/{name}": records for name, records in stage.validation.items()}
    rows: dict[str, list[Encoded]] = {}
    known = shared.known(tokenizer)
    counts: dict[str, Counts] = {}
    for name, records in sets.items():
        try:
            # One chat per sequence of roles comes first: a template that refuses it is reported
            # before thousands of records are encoded.
            check_template(tokenizer, [record for record in records if record not in known])
            rows[name], dropped = encode_all(
                records, tokenizer, limit, known, cut=stage.too_long == "cut"
            )
        except CorpusError as error:
            raise CorpusError(f"{name}: {error}") from None
        if records and not rows[name]:
            what = "" if name == "examples" else f" of {name}"
            raise TrainingError(
                f"none of the {len(records)} examples{what} fits in {limit} tokens. Shorten them."
            )
        if records:
            counts[name] = count(rows[name], dropped)
    _check_vocabulary(rows, config)
    # Records that are too long are missing here, so each row takes its group by its own number.
    groups = (
        [stage.groups[row.index] for row in rows["examples"]] if stage.groups is not None else []
    )
    validation = {name: rows[f"validation/{name}"] for name in stage.validation}
    return Data(rows["examples"], rows["replay"], validation, groups, counts)


def _limit(stage: Stage, tokenizer: Any, config: Any) -> int | None:
    """Returns the largest number of tokens of an example; None if there is no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    default = tokenizer.model_max_length if tokenizer.model_max_length < UNLIMITED else positions
    if stage.max_length is None:
        return default
    if positions is not None and stage.max_length > positions:
        raise TrainingError(
            f"max_length is {stage.max_length}, and the base holds {positions} tokens. "
            f"Give {positions} or less."
        )
    return stage.max_length


def _check_vocabulary(rows: Mapping[str, Sequence[Encoded]], config: Any) -> None:
    """Refuses tokens that the model's embedding does not have.

    On an accelerator, an index out of range would crash the whole process.
    """
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)
    largest = max(int(row.ids.max()) for dataset in rows.values() for row in dataset)
    if vocabulary is not None and largest >= vocabulary:
        raise TrainingError(
            f"token {largest} occurs in the data, and the base knows {vocabulary} tokens. "
            "Its tokenizer belongs to another model: put the right one into its folder."
        )
