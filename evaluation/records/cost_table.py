"""What DEM and data mixing cost as a function of the settings tried: the DEM paper's table 8, for one's own runs.

DEM (arXiv 2406.15570) trains one expert per dataset once, and tries M settings of ω by validating merges. Mixing trains
anew for each setting of its proportions. With c(D) the cost of training on D and v that of one validation sweep:

    DEM    = Σ_i c(D_i) + M·v
    mixing = M·(c(∪D_i) + v)

The paper gives totals (966 and 11,650 GPU hours); its formula was not to be had, and this one follows its description.
11,650/966 is about 12, as for a dozen mixing runs: the gain is one over *tuned* mixing. A single mixing run costs about
Σ_i c(D_i), so that DEM saves nothing against one untuned run. Every table here has that column too.

Worked example: experts 10 and 20, mixing 30 a run, v = 1. DEM at M = 1, 2: 31, 32. Mixing: 31, 62. Ratio: 1, 1.94.
DEM is cheaper from M = 2 on; one untuned mixing run costs 31.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from evaluation.records.prices import Cost, Prices

SETTINGS = (1, 2, 4, 8, 12, 16, 24, 32)
ROUNDING = 1e-12
"""Costs that differ by less than this share are equal."""
PARALLEL = 1e-6
"""Where one more setting costs both the same to this share of the dearest part, neither ever overtakes the other."""


class CostRow(NamedTuple):
    """The costs at one number of settings tried."""

    settings: int
    dem: Cost | None
    mixing: Cost | None
    """Tuned over as many settings."""
    untuned: Cost | None
    """One mixing run, validated once: the same in every row, and the honest comparison."""

    @property
    def ratio(self) -> Cost | None:
        """Tuned mixing over DEM: how many times dearer it is."""
        return _ratio(self.mixing, self.dem)

    @property
    def untuned_ratio(self) -> Cost | None:
        """One untuned mixing run over DEM; below 1 where DEM costs more."""
        return _ratio(self.untuned, self.dem)


@dataclass(frozen=True)
class CostTable:
    """Table 8 for one's own runs."""

    rows: tuple[CostRow, ...]
    unit: str
    crossover: Cost | None
    """The number of settings from which on DEM costs less than mixing tuned over as many; None where it never does."""
    notes: tuple[str, ...] = ()

    def as_rows(self) -> list[dict[str, Any]]:
        """The rows for JSON: each cost as {"value", "how"}, null where it is not known."""
        columns = ("dem", "mixing", "untuned", "ratio", "untuned_ratio")
        return [
            {"settings": row.settings} | {name: _data(getattr(row, name)) for name in columns}
            for row in self.rows
        ]

    def as_data(self) -> dict[str, Any]:
        """All of it for JSON."""
        found = _data(self.crossover)
        return {
            "unit": self.unit,
            "rows": self.as_rows(),
            "crossover": found,
            "notes": list(self.notes),
        }

    def cells(self) -> list[list[str]]:
        """The table as text, the heading first; a projected cost has a ~ before it, an unknown one is a dash."""
        heading = ["settings tried", "DEM", "mixing, tuned", "ratio", "mixing, untuned", "ratio"]
        return [heading, *([str(row.settings), *_texts(row)] for row in self.rows)]


def cost_table(
    prices: Prices, settings: Iterable[int] = SETTINGS, unit: str = "device_seconds"
) -> CostTable:
    """The table from prices.

    Args:
        prices: of the parts; see evaluation.records.prices for those in a ledger.
        settings: numbers of settings, each from 1; a row each.
        unit: what the prices are in, for the reader.

    Raises:
        ValueError: a number of settings below 1, or none.
    """
    counts = sorted(set(settings))
    if not counts or counts[0] < 1:
        raise ValueError(f"settings tried are {counts}; give whole numbers from 1")
    untuned = prices.mixed(1)
    rows = tuple(
        CostRow(count, prices.dem(count), prices.mixed(count), untuned) for count in counts
    )
    return CostTable(rows, unit, crossover(prices), (*prices.notes, *_notes(prices)))


def crossover(prices: Prices) -> Cost | None:
    """The fewest settings from which on DEM costs less than mixing tuned over as many; None where it never does.

    Past what was measured both are straight lines, so that the search ends.
    """
    slope = prices.slope
    if slope is None:
        return None
    last = max(len(prices.tries), len(prices.mixing), len(prices.validations))
    here = _saved(prices, last)
    parallel = abs(slope) <= PARALLEL * max(
        prices.trained or 0.0, *prices.runs, *prices.tries, *prices.ends
    )
    if (here <= 0) if parallel else (slope < 0):
        return None
    count = last if here > 0 else last + math.floor(-here / slope)
    while _saved(prices, count) <= 0:  # the quotient was rounded down
        count += 1
    while count > 1 and _saved(prices, count - 1) > 0:
        count -= 1
    costs = (prices.dem(count), prices.mixed(count))
    return Cost(
        count, "measured" if all(cost and cost.how == "measured" for cost in costs) else "projected"
    )


def _saved(prices: Prices, settings: int) -> float:
    """What DEM costs less than tuned mixing, 0 where they differ by rounding only; where both are known."""
    dem, mixed = prices.dem(settings), prices.mixed(settings)
    if dem is None or mixed is None:
        raise ValueError(f"a price is missing: DEM {dem}, mixing {mixed}")
    saved = mixed.value - dem.value
    return 0.0 if abs(saved) <= ROUNDING * max(mixed.value, dem.value) else saved


def _notes(prices: Prices) -> Iterator[str]:
    """What was measured, what was not, and the honest comparison in words."""
    tried, ran = len(prices.tries), len(prices.mixing)
    yield f"measured: validation sweeps of merges {tried}, trainings on mixed data {ran}"
    if not ran:
        yield "no training on mixed data is recorded; one is taken to cost as much as all experts together"
    if not prices.sweeps_of_mixed:
        yield "no validation sweep is recorded; measure the losses of one composition first"
    elif not prices.tries:
        yield "no sweep of a merge is recorded; one is taken to cost as much as one of the base or an expert alone"
    elif not prices.validations:
        yield "a sweep of a mixed model is taken to cost as much as one of a merge"
    dem, untuned = prices.dem(1), prices.mixed(1)
    if dem is not None and untuned is not None:
        more = -_saved(prices, 1)
        costs = f"{abs(more):,.1f} {'more' if more > 0 else 'less'} than" if more else "as much as"
        yield f"DEM with one setting costs {costs} one untuned mixing run: what DEM saves is the tuning"


def _ratio(over: Cost | None, under: Cost | None) -> Cost | None:
    if over is None or under is None or under.value == 0:
        return None
    both = over.how == under.how == "measured"
    return Cost(over.value / under.value, "measured" if both else "projected")


def _data(cost: Cost | None) -> dict[str, Any] | None:
    return None if cost is None else cost._asdict()


def _texts(row: CostRow) -> tuple[str, ...]:
    return (
        _seconds(row.dem),
        _seconds(row.mixing),
        _times(row.ratio),
        _seconds(row.untuned),
        _times(row.untuned_ratio),
    )


def _seconds(cost: Cost | None) -> str:
    return "–" if cost is None else f"{'' if cost.how == 'measured' else '~'}{cost.value:,.1f}"


def _times(cost: Cost | None) -> str:
    return "–" if cost is None else f"{'' if cost.how == 'measured' else '~'}{cost.value:.2f}×"
