"""Examples as training sees them, in batches by length, and the loss of each.

The loss of an example is the mean negative log-likelihood, in nats, of its supervised tokens given
the tokens before them, as in LESS (arXiv 2402.04333). So an example without such a token has no
loss: 0/0, which would poison a ranking. It is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from corpus.errors import CorpusError, raise_all
from corpus.records import Record, place
from corpus.tokens import Encoded, encode_all
from evaluation.loss import token_losses
from evaluation.prepared import UNLIMITED, Batch, batched, vocabulary_size
from influence.errors import InfluenceError


class Examples(NamedTuple):
    """Tokenised examples in batches of similar length; padding is on the right."""

    batches: tuple[Batch, ...]
    """The longest examples come first. `Batch.examples` holds their numbers."""
    records: tuple[int, ...]
    """The number of the record, from 0, that each example is from; ascending. A chat may become
    several examples, one for each answer, and a record that is too long may be left out."""
    tokens: tuple[int, ...]
    """The number of supervised tokens of each example."""
    longest: int
    """The most tokens of an example."""
    largest: int
    """The largest token id."""

    def check(self, module: nn.Module) -> None:
        """Refuses examples that a model has no embedding for, before it is run.

        On an accelerator an index out of range breaks the whole process.

        Raises:
            InfluenceError: a token is outside the vocabulary, or an example is too long.
        """
        if self.largest >= (size := vocabulary_size(module)):
            raise InfluenceError(
                f"token {self.largest} occurs in the data, the model knows {size} tokens. "
                "Use the tokenizer of this model."
            )
        config: Any = module.config
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and self.longest > positions:
            raise InfluenceError(
                f"an example has {self.longest} tokens, the model holds {positions}. "
                f"Give a max_length of {positions} or less."
            )


def read_examples(
    records: Sequence[Record],
    tokenizer: Any,
    *,
    max_length: int | None = None,
    too_long: Literal["refuse", "drop", "cut"] = "refuse",
    batch_tokens: int = 512,
) -> Examples:
    """Tokenises records as training does, and batches them by length.

    Args:
        records: what the gradients are taken of; results come in this order.
        tokenizer: the tokenizer of the model.
        max_length: the most tokens of an example; the tokenizer's limit by default.
        too_long: what happens to longer ones. Dropped ones are missing in `Examples.records`; of
            those that are cut off, the tokens within the limit are learned, as in training.
        batch_tokens: the most positions of a batch, with padding; see evaluation.prepared.

    Raises:
        InfluenceError: a record is too long or has no token to learn; lines are named. There are no
            records, or none is short enough.
        CorpusError: the tokenizer's template cannot write a chat.
    """
    if not records:
        raise InfluenceError("there are no examples. Give at least one.")
    if max_length is None and tokenizer.model_max_length < UNLIMITED:
        max_length = tokenizer.model_max_length
    encoded, _ = encode_all(records, tokenizer)
    kept: list[Encoded] = []
    faults: list[str] = []
    for example in encoded:
        where = place(records[example.index], example.index)
        if max_length is not None and (length := len(example.ids)) > max_length:
            if too_long == "drop":
                continue
            if too_long == "refuse":
                faults.append(
                    f"{where}: is longer than {max_length} tokens ({length}). Shorten it, or give "
                    'too_long="drop" or too_long="cut".'
                )
                continue
            example = replace(
                example, ids=example.ids[:max_length], supervised=example.supervised[:max_length]
            )
        # The first token is predicted from nothing.
        if not example.supervised[1:].any():
            within = "" if max_length is None else f" within {max_length} tokens"
            faults.append(f"{where}: has no token to learn{within}, so its loss is 0/0. Remove it.")
            continue
        kept.append(example)
    try:
        raise_all(faults, len(records))
    except CorpusError as error:
        raise InfluenceError(str(error)) from None
    if not kept:
        raise InfluenceError(
            f"each of the {len(records)} examples is longer than {max_length} tokens. Shorten them."
        )
    return Examples(
        batched(kept, batch_tokens),
        tuple(example.index for example in kept),
        tuple(int(example.supervised[1:].sum()) for example in kept),
        max(len(example.ids) for example in kept),
        max(int(example.ids.max()) for example in kept),
    )


def numbers(batch: Batch) -> Tensor:
    """Returns the number of each example of a batch, (examples,) int64."""
    result = torch.empty(len(batch.ids), dtype=torch.int64)
    result[batch.rows] = batch.examples
    return result


def mean_losses(module: nn.Module, batch: Batch) -> Tensor:
    """Returns the mean loss of each example of a batch, (examples,), with its graph.

    It is in nats per supervised token, float32, or float64 if the model is.

    Args:
        module: a causal language model of transformers, on any device.
        batch: the examples.
    """
    selects = "logits_to_keep" in inspect.signature(module.forward).parameters
    losses = token_losses(module, batch, selects, None)
    rows = batch.rows.to(losses.device)
    sums = losses.new_zeros(len(batch.ids)).index_add(0, rows, losses)
    return sums / torch.bincount(rows, minlength=len(batch.ids))
