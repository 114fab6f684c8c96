"""The examples of a stage as tokens, counted; what cannot be trained on is refused here, before any weights are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from corpus.chat_tokens import check_template
from corpus.counts import Counts, count
from corpus.errors import CorpusError
from corpus.records import Record
from corpus.tokens import Encoded, encode_all
from training.errors import TrainingError
from training.stage import Stage

UNLIMITED = 10**9
"""A tokenizer that knows no limit reports 10^30 as its model_max_length."""


class Data(NamedTuple):
    """What a stage trains on and measures, as tokens."""

    own: list[Encoded]
    rehearsed: list[Encoded]
    validation: dict[str, list[Encoded]]
    groups: list[int]
    """Group number of each of `own`; empty where the stage has none."""
    counts: dict[str, Counts]
    """By "examples", "replay" and "validation/<name>"."""

    @property
    def all(self) -> list[Encoded]:
        """What batches number: the stage's own examples, then those of replay."""
        return self.own + self.rehearsed


def encoded(stage: Stage, tokenizer: Any, config: Any) -> Data:
    """Tokenises all data of a stage.

    Args:
        stage: what is trained.
        tokenizer: the base's.
        config: the base's configuration.

    Raises:
        TrainingError: nothing of a dataset fits, or a token is not the model's.
        CorpusError: a chat that the tokenizer's template cannot write.
    """
    limit = _limit(stage, tokenizer, config)
    sets: dict[str, Sequence[Record]] = {"examples": stage.examples, "replay": stage.replay}
    sets |= {f"validation/{name}": records for name, records in stage.validation.items()}
    rows: dict[str, list[Encoded]] = {}
    counts: dict[str, Counts] = {}
    for name, records in sets.items():
        try:
            check_template(tokenizer, records)
            rows[name], dropped = encode_all(records, tokenizer, limit)
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
    groups = (
        [stage.groups[row.index] for row in rows["examples"]] if stage.groups is not None else []
    )
    validation = {name: rows[f"validation/{name}"] for name in stage.validation}
    return Data(rows["examples"], rows["replay"], validation, groups, counts)


def _limit(stage: Stage, tokenizer: Any, config: Any) -> int | None:
    """Most tokens of an example."""
    places = getattr(config, "max_position_embeddings", None)
    known = tokenizer.model_max_length if tokenizer.model_max_length < UNLIMITED else places
    if stage.max_length is None:
        return known
    if places is not None and stage.max_length > places:
        raise TrainingError(
            f"max_length is {stage.max_length}, and the base holds {places} tokens. Give {places} or less."
        )
    return stage.max_length


def _check_vocabulary(rows: Mapping[str, Sequence[Encoded]], config: Any) -> None:
    """An index out of range breaks the whole process on an accelerator."""
    known = getattr(config.get_text_config(), "vocab_size", None)
    largest = max(max(row.ids) for some in rows.values() for row in some)
    if known is not None and largest >= known:
        raise TrainingError(
            f"token {largest} occurs in the data, and the base knows {known} tokens. Its tokenizer is another model's: "
            "put the right one into its folder."
        )
