"""The weights of domains after each step of a proxy, as a table in a file."""

from __future__ import annotations

import csv
import io
from typing import NamedTuple

import numpy as np

from influence.balance.resize import apportion
from influence.csv_tables import cell, csv_table


class WeightTrace(NamedTuple):
    """The weights of n domains over the steps of a proxy."""

    domains: tuple[str, ...]
    """Names of the domains."""
    weights: np.ndarray
    """[steps + 1, n] float64: row 0 is the start, row t are the weights after step t; each row
    sums to 1."""
    with_start: bool
    """Whether the start counts in the mean: in DoReMi it does, in DOGE it does not."""

    @property
    def mean(self) -> np.ndarray:
        """[n] float64: the mean of the weights over the steps, which is the proposal."""
        return np.asarray(self.weights[0 if self.with_start else 1 :].mean(0))

    def sizes(self, total: int) -> dict[str, int]:
        """Returns `total` examples split by the mean weights, by the names of the domains."""
        return dict(zip(self.domains, apportion(self.mean, total), strict=True))


def trace_csv(trace: WeightTrace) -> str:
    """Returns a trace as CSV: a line for each step, a column for each domain, with all digits."""
    head = ["step", *map(cell, trace.domains)]
    return csv_table(head, [[step, *row] for step, row in enumerate(trace.weights.tolist())])


def read_trace(text: str, domains: tuple[str, ...], *, with_start: bool) -> WeightTrace:
    """Reads what `trace_csv` wrote, bit for bit; for the arguments see WeightTrace."""
    _, *rows = csv.reader(io.StringIO(text))
    weights = np.array([[float(value) for value in row[1:]] for row in rows])
    return WeightTrace(domains, weights, with_start)
