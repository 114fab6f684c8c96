"""The costs of DEM and of data mixing by the number of settings tried: the DEM paper's table 8.

DEM (arXiv 2406.15570) trains one expert per dataset once, and tries M settings of ω by validating
merges. Mixing trains anew for each setting of its proportions. With c(D) the cost of training on D
and v the cost of one validation sweep:

    DEM    = Σ_i c(D_i) + M·v
    mixing = M·(c(∪D_i) + v)

The paper gives totals (966 and 11,650 GPU hours) and no formula; this one follows its description.
11,650/966 is about 12, as for a dozen mixing runs: DEM gains over *tuned* mixing. A single mixing
run costs about Σ_i c(D_i), so DEM saves nothing against one untuned run. Every table here has a
column for that comparison too.

Worked example: experts 10 and 20, mixing 30 a run, v = 1. For M = 1, 2 DEM costs 31, 32; mixing
costs 31, 62; the ratio is 1, 1.94. DEM is cheaper from M = 2 on; one untuned mixing run costs 31.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from evaluation.records.prices import Cost, Prices

SETTINGS = (1, 2, 4, 8, 12, 16, 24, 32)
"""Numbers of settings tried, one row of the table each."""
ROUNDING = 1e-12
"""Costs that differ by less than this share are equal."""
PARALLEL = 1e-6
"""The two lines of cost are parallel if one more setting costs both the same, up to this share of
the most expensive part. Then neither ever overtakes the other.
"""


class CostRow(NamedTuple):
    """The costs for one number of settings tried. A cost is None if a price is missing."""

    settings: int
    """Number of settings tried."""
    dem: Cost | None
    """DEM with this number of settings of ω."""
    mixing: Cost | None
    """Data mixing, tuned over the same number of settings."""
    untuned: Cost | None
    """One mixing run, validated once. It is the same in every row, and the honest comparison."""

    @property
    def ratio(self) -> Cost | None:
        """The cost of tuned mixing divided by that of DEM."""
        return _ratio(self.mixing, self.dem)

    @property
    def untuned_ratio(self) -> Cost | None:
        """The cost of one untuned mixing run divided by that of DEM; below 1 if DEM costs more."""
        return _ratio(self.untuned, self.dem)


@dataclass(frozen=True)
class CostTable:
    """The DEM paper's table 8, computed for the user's own runs."""

    rows: tuple[CostRow, ...]
    unit: str
    """What the costs are measured in, such as "device_seconds"."""
    crossover: Cost | None
    """The number of settings from which on DEM costs less than mixing tuned over as many.

    None if it never does.
    """
    notes: tuple[str, ...] = ()
    """Sentences on the prices for the reader."""

    def as_rows(self) -> list[dict[str, Any]]:
        """Returns the rows for JSON. A cost is {"value", "how"}, or null if it is not known."""
        columns = ("dem", "mixing", "untuned", "ratio", "untuned_ratio")
        return [
            {"settings": row.settings} | {name: _data(getattr(row, name)) for name in columns}
            for row in self.rows
        ]

    def as_data(self) -> dict[str, Any]:
        """Returns the whole table for JSON."""
        return {
            "unit": self.unit,
            "rows": self.as_rows(),
            "crossover": _data(self.crossover),
            "notes": list(self.notes),
        }

    def cells(self) -> list[list[str]]:
        """Returns the table as text, with the heading as its first row.

        A projected cost has a ~ before it; an unknown one is a dash.
        """
        heading = ["settings tried", "DEM", "mixing, tuned", "ratio", "mixing, untuned", "ratio"]
        return [heading, *([str(row.settings), *_texts(row)] for row in self.rows)]


def cost_table(
    prices: Prices, settings: Iterable[int] = SETTINGS, unit: str = "device_seconds"
) -> CostTable:
    """Computes the cost table from prices.

    Args:
        prices: of the parts; evaluation.records.prices reads them from a ledger.
        settings: numbers of settings tried, each 1 or more. Each gives a row.
        unit: of the prices, for the reader.

    Raises:
        ValueError: there is no number of settings, or one is below 1.
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
    """Returns the fewest settings from which on DEM costs less than mixing tuned over as many.

    None if there are none. Both costs are straight lines beyond what was measured, so the search
    ends.
    """
    slope = prices.slope
    if slope is None:
        return None
    # Beyond this number every part is projected at a mean, so both costs are straight lines from
    # here.
    last = max(len(prices.tries), len(prices.mixing), len(prices.validations))
    here = _saved(prices, last)
    parallel = abs(slope) <= PARALLEL * max(
        prices.trained or 0.0, *prices.runs, *prices.tries, *prices.ends
    )
    # Parallel lines keep their order, so DEM has to be ahead already. If mixing gets cheaper per
    # setting than DEM, DEM is not ahead for good.
    if (here <= 0) if parallel else (slope < 0):
        return None
    count = last if here > 0 else last + math.floor(-here / slope)
    # The quotient was rounded down, so the crossover may be one further. Before `last` the costs
    # follow what was measured and no line, so it may be earlier as well.
    while _saved(prices, count) <= 0:
        count += 1
    while count > 1 and _saved(prices, count - 1) > 0:
        count -= 1
    costs = (prices.dem(count), prices.mixed(count))
    return Cost(
        count, "measured" if all(cost and cost.how == "measured" for cost in costs) else "projected"
    )


def _saved(prices: Prices, settings: int) -> float:
    """Returns how much less DEM costs than tuned mixing; 0 if they differ by rounding only.

    Raises:
        ValueError: one of the two costs is not known.
    """
    dem, mixed = prices.dem(settings), prices.mixed(settings)
    if dem is None or mixed is None:
        raise ValueError(f"a price is missing: DEM {dem}, mixing {mixed}")
    saved = mixed.value - dem.value
    return 0.0 if abs(saved) <= ROUNDING * max(mixed.value, dem.value) else saved


def _notes(prices: Prices) -> Iterator[str]:
    """Yields sentences on what was measured and what was assumed, then the honest comparison."""
    tried, ran = len(prices.tries), len(prices.mixing)
    yield f"measured: validation sweeps of merges {tried}, trainings on mixed data {ran}"
    if not ran:
        yield (
            "no training on mixed data is recorded; "
            "one is taken to cost as much as all experts together"
        )
    if not prices.sweeps_of_mixed:
        yield "no validation sweep is recorded; measure the losses of one composition first"
    elif not prices.tries:
        yield (
            "no sweep of a merge is recorded; "
            "one is taken to cost as much as one of the base or an expert alone"
        )
    elif not prices.validations:
        yield "a sweep of a mixed model is taken to cost as much as one of a merge"
    dem, untuned = prices.dem(1), prices.mixed(1)
    if dem is not None and untuned is not None:
        more = -_saved(prices, 1)
        costs = f"{abs(more):,.1f} {'more' if more > 0 else 'less'} than" if more else "as much as"
        yield (
            f"DEM with one setting costs {costs} one untuned mixing run: "
            "what DEM saves is the tuning"
        )


def _ratio(over: Cost | None, under: Cost | None) -> Cost | None:
    """Returns `over` divided by `under`; None if either is not known, or `under` is 0."""
    if over is None or under is None or under.value == 0:
        return None
    both = over.how == under.how == "measured"
    return Cost(over.value / under.value, "measured" if both else "projected")


def _data(cost: Cost | None) -> dict[str, Any] | None:
    """Returns a cost for JSON."""
    return None if cost is None else cost._asdict()


def _texts(row: CostRow) -> tuple[str, ...]:
    """Returns the texts of a row, in the order of the table's columns after the first."""
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
