"""The data of a proxy: domains and targets as tokens, and what each of its steps draws of them.

A step draws as many examples of each domain, and of each target, as of any other (DoReMi,
arXiv 2305.10429, algorithm 1: a minibatch of uniform domain weights), together a step's examples of
the ordinary training. The weights of the domains act on the losses, not on the draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from random import Random
from typing import NamedTuple

from corpus.records import Record
from corpus.tokens import Encoded
from evaluation.prepared import Batch, batched
from influence.errors import InfluenceError
from training.batching.order import passes
from training.run.base import open_base
from training.run.encode import encode_stage
from training.run.shared import Shared
from training.stage import Stage


class Drawn(NamedTuple):
    """The examples of one set that one step draws."""

    numbers: list[int]
    """Numbers of the examples in the set; one that comes twice is there twice."""
    batches: tuple[Batch, ...]
    """The examples, cut so that a batch needs the memory of a batch of the training; their numbers
    in `Batch.examples` are places in `numbers`."""
    tokens: int
    """Number of their tokens, prompt and template included."""
    supervised: int
    """Number of their tokens that are learned, at least 1."""


class ProxyData(NamedTuple):
    """Domains and targets as tokens, and how a proxy draws of them."""

    domains: Mapping[str, Sequence[Encoded]]
    """Name of a domain -> its examples, each with a token to learn."""
    targets: Mapping[str, Sequence[Encoded]]
    """Name of a target -> its examples, likewise."""
    steps: int
    """Number of updates of the proxy."""
    draw: int
    """Number of examples of each set in a step."""
    positions: int
    """The most positions of a batch, with padding; a single example may exceed it."""
    seed: int
    """Seed of the draws."""

    def draws(self, name: str, *, target: bool = False) -> Iterator[Drawn]:
        """Yields what each step draws of a set: its examples in passes, each in a new order."""
        rows = (self.targets if target else self.domains)[name]
        order = self._order(name, target)
        for _ in range(self.steps):
            numbers = list(islice(order, self.draw))
            mine = [rows[number] for number in numbers]
            yield Drawn(
                numbers,
                batched(mine, self.positions),
                sum(len(row.ids) for row in mine),
                sum(int(row.supervised[1:].sum()) for row in mine),
            )

    def drawn(self, name: str) -> list[int]:
        """Returns the numbers of the examples of a domain that any step draws, ascending."""
        return sorted(set(islice(self._order(name, False), self.steps * self.draw)))

    def _order(self, name: str, target: bool) -> Iterator[int]:
        rows = (self.targets if target else self.domains)[name]
        kind = "target" if target else "domain"
        return passes(range(len(rows)), Random(f"{kind}/{name}/{self.seed}"))


def proxy_stage(
    stage: Stage,
    domains: Mapping[str, Sequence[Record]],
    targets: Mapping[str, Sequence[Record]],
    steps: int,
) -> Stage:
    """Returns the stage of a proxy: all domains one after the other, and the targets to validate.

    Args:
        stage: of an ordinary training on the domains, whose base and settings the proxy has.
        domains, targets: name -> records.
        steps: number of updates.
    """
    return replace(
        stage,
        examples=tuple(record for records in domains.values() for record in records),
        validation={name: tuple(records) for name, records in targets.items()},
        steps=steps,
        epochs=None,
        evaluate_every=None,
        keep="last",
        patience=None,
        keep_epochs=False,
        report_to=(),
    )


def read_proxy_data(
    stage: Stage, domains: Mapping[str, Sequence[Record]], shared: Shared
) -> ProxyData:
    """Tokenises the domains and targets of a proxy as training does.

    Args:
        stage: what `proxy_stage` returned for these domains.
        domains: name -> records.
        shared: keeps the tokens for the proxy's training.

    Raises:
        InfluenceError: a domain or a target has no example with a token to learn.
        TrainingError: the base cannot be opened, or no example fits into its context.
        CorpusError: the base's tokenizer cannot write a chat.
    """
    base = open_base(stage.base)
    data = encode_stage(stage, base.tokenizer, base.config, shared)
    owners = [name for name, records in domains.items() for _ in records]
    rows: dict[str, list[Encoded]] = {name: [] for name in domains}
    for row in data.own:
        rows[owners[row.index]].append(row)
    examples = stage.batch * stage.accumulation
    return ProxyData(
        _learnable("domain", rows),
        _learnable("validation set", data.validation),
        stage.steps or 0,
        math.ceil(examples / len(domains)),
        stage.batch * max(len(row.ids) for row in data.own),
        stage.seed,
    )


def _learnable(what: str, sets: Mapping[str, Sequence[Encoded]]) -> dict[str, list[Encoded]]:
    """Returns the examples of each set that have a token to learn; the first is never predicted.

    Raises:
        InfluenceError: a set has none.
    """
    kept = {name: [row for row in rows if row.supervised[1:].any()] for name, rows in sets.items()}
    for name, rows in kept.items():
        if not rows:
            raise InfluenceError(
                f"the {what} {name} has no example with a token to learn that fits into the "
                "model's context, so it has no loss. Give it such an example, or leave it out."
            )
    return kept
