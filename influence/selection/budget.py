"""How much of a pool is chosen: a number or a share, of examples or of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from corpus.errors import CorpusError
from corpus.subsets import share_of
from influence.errors import InfluenceError
from influence.selection.example_set import ExampleSet

Unit = Literal["examples", "supervised", "tokens"]
"""What is counted: examples, their supervised tokens, or all their tokens."""
IN_WORDS = {"examples": "examples", "supervised": "supervised tokens", "tokens": "tokens"}

Amount = int | Fraction | float | str
"""A whole number such as 300 is a count; 0.05, "1/20" and Fraction(1, 20) are shares. So 1 is one
example, and 1.0 is the whole.
"""


@dataclass(frozen=True)
class Budget:
    """How much is chosen.

    Attributes:
        amount: a count in `unit`, or a share of the whole pool in that unit, rounded down.
        unit: what is counted.
        cap: the most that each source gives: a count in `unit`, or a share of the budget, rounded
            up, so that five sources with a fifth each fill it. None for no cap.
    """

    amount: Amount
    unit: Unit = "examples"
    cap: Amount | None = None


class Limits:
    """Counts what was chosen against a budget, and against the cap of each source."""

    def __init__(self, pool: ExampleSet, budget: Budget) -> None:
        """Works out the budget and the cap for a pool.

        Raises:
            InfluenceError: the unit is unknown, an amount is none, or the budget exceeds the pool.
        """
        if budget.unit not in IN_WORDS:
            raise InfluenceError(
                f"the unit of the budget is {budget.unit!r}; expected {', '.join(IN_WORDS)}."
            )
        self.costs = _costs(pool, budget.unit)
        self.in_words = IN_WORDS[budget.unit]
        whole = int(self.costs.sum())
        self.amount = _resolve(budget.amount, whole, "budget", self.in_words)
        if self.amount > whole:
            raise InfluenceError(
                f"the budget is {self.amount:,} {self.in_words}, and the pool has {whole:,}. "
                "Give a smaller budget, or a larger pool."
            )
        self.cap = None
        if budget.cap is not None:
            self.cap = _resolve(budget.cap, self.amount, "cap", self.in_words, up=True)
        self._sources = [each.source for each in pool.examples]
        self._of_source = dict.fromkeys(pool.sources, 0)
        self._closed: set[str] = set()

    @property
    def used(self) -> int:
        """How much was chosen."""
        return sum(self._of_source.values())

    def fits(self, row: int) -> bool:
        """Returns whether the budget has room for an example."""
        return self.used + int(self.costs[row]) <= self.amount

    def is_open(self, row: int) -> bool:
        """Returns whether the source of an example may give it.

        A source is closed by the first of its examples that exceeds the cap: to look for shorter
        ones would choose worse ones.
        """
        source = self._sources[row]
        if self.cap is not None and self._of_source[source] + int(self.costs[row]) > self.cap:
            self._closed.add(source)
        return source not in self._closed

    def add(self, row: int) -> None:
        """Counts an example as chosen."""
        self._of_source[self._sources[row]] += int(self.costs[row])

    def refuse_shortfall(self, chosen: int, copies: int) -> None:
        """Refuses a budget that could not be filled, once there is nothing left to choose.

        What a source leaves of its cap because its next example is too long is no shortfall, unless
        it gave nothing. Counted in examples there is no such rest.

        Args:
            chosen: number of examples that were chosen.
            copies: number of examples that were passed over as copies.

        Raises:
            InfluenceError: saying how many could be chosen, and why no more.
        """
        rests = 0
        if self.cap is not None:
            given = [self._of_source[name] for name in self._closed]
            rests = sum(self.cap - used for used in given if used)
        if self.used + rests >= self.amount:
            return
        got = f"{chosen:,} examples"
        got += f" with {self.used:,} {self.in_words}" if self.in_words != "examples" else ""
        why, advice = [], ["a smaller budget"]
        if self.cap is not None:
            why.append(f"each source may give {self.cap:,}")
            advice.append("a higher cap")
        if copies:
            why.append(f"{copies:,} are copies")
            advice.append("leave to choose copies")
        raise InfluenceError(
            f"the budget is {self.amount:,} {self.in_words}, and only {got} can be chosen: "
            f"{' and '.join(why)}. Give {' or '.join(advice)}."
        )


def _costs(pool: ExampleSet, unit: Unit) -> NDArray[np.int64]:
    if unit == "examples":
        return np.ones(len(pool), np.int64)
    return np.array([getattr(each, unit) for each in pool.examples], np.int64)


def _resolve(amount: Amount, whole: int, name: str, unit: str, *, up: bool = False) -> int:
    """Returns a count as it is, and a share as its part of the whole, rounded down or up."""
    if isinstance(amount, int) and not isinstance(amount, bool):
        resolved = amount
    else:
        try:
            part = whole * share_of(amount)
            resolved = math.ceil(part) if up else math.floor(part)
        except CorpusError as error:
            raise InfluenceError(f"the {name}: {error}") from None
    if resolved < 1:
        raise InfluenceError(
            f"the {name} is {amount}, which is {resolved} of {whole:,} {unit}. "
            "Give at least 1, or a larger share."
        )
    return resolved
