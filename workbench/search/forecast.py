"""Forecast: what a page needs to predict the losses of any slider position by itself.

Each dataset has a surrogate of its loss, fitted to what was measured of plain sums of the open
vectors. It is sent as a sum of few terms, so that the prediction follows a hand with no question
to the server; assets/live/forecast.js computes it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from workbench.search.measured import MeasuredPoint, measured_points, plain_points, slopes_of
from workbench.search.points import is_small
from workbench.session.loss_on_axis import FULL

if TYPE_CHECKING:
    from evaluation.landscape.loss_surrogate import Surrogate
    from workbench.session.loss_cache import LossCache
    from workbench.session.models import Models

ROWS = 240
"""The most numbers per dataset that a forecast is fitted to: a loss, and each of its derivatives.
Its time grows with their cube: 240 take some 0.1 s for each dataset here, and 20 ms in a page."""
FEWEST = 4
"""Numbers below which nothing is predicted."""


class Known(NamedTuple):
    """What a forecast is fitted to."""

    points: Sequence[MeasuredPoint]
    slopes: Sequence[Mapping[str, Mapping[str, float]] | None]
    """Of each point: dataset -> vector -> derivative; None if they are not used."""

    def rows(self, vectors: int) -> int:
        """Returns how many numbers per dataset these are."""
        return sum(1 + vectors * (slope is not None) for slope in self.slopes)


class Forecasts:
    """Makes forecasts; what nothing new was measured for is not fitted again. Any thread may ask.

    Args:
        book: the cache of losses.
    """

    def __init__(self, book: LossCache):
        self._book = book
        # Held while fitting: two pages that ask at once would fit the same twice.
        self._lock = threading.Lock()
        self._last: tuple[object, dict[str, Any]] = (None, {})

    def of(self, models: Models) -> dict[str, Any]:
        """Returns the forecast for the open models as JSON; docs/page.md lists its keys."""
        with self._lock:
            known = gathered(self._book, models)
            measured = [(point.key, slope is not None) for point, slope in zip(*known, strict=True)]
            if self._last[0] != (models.key, measured):
                self._last = (models.key, measured), forecast(self._book, models, known)
            return self._last[1] | _geometry(models)


def forecast(book: LossCache, models: Models, known: Known) -> dict[str, Any]:
    """Returns the forecast for the open models from what is known; see Forecasts.of."""
    document: dict[str, Any] = {"models": models.key, "names": models.names, "datasets": {}}
    document["count"] = len(known.points)
    if known.rows(len(models.names)) < FEWEST or len(known.points) < 2:
        return document
    surrogates = fitted(known, models.names, list(models.data))
    points = next(iter(surrogates.values())).points
    return document | {
        "points": points.tolist(),
        "sloped": [slope is not None for slope in known.slopes],
        "low": points.min(0).tolist(),
        "high": points.max(0).tolist(),
        "datasets": {
            name: surrogate_data(surrogate) | _ends(book, models, name)
            for name, surrogate in surrogates.items()
        },
    }


def gathered(book: LossCache, models: Models) -> Known:
    """Returns the measured sums with their derivatives, at most ROWS numbers per dataset.

    Of too many the best by mean loss are taken, because there the sliders stand, and before them
    the base and the vectors alone, because there they begin.
    """
    points = plain_points(measured_points(book, models))
    # A sort keeps the order of equal keys, so the others stay the best first.
    points.sort(key=lambda point: sum(omega != 0 for omega in point.omegas.values()) > 1)
    taken: list[MeasuredPoint] = []
    slopes: list[Mapping[str, Mapping[str, float]] | None] = []
    left, n = ROWS, len(models.names)
    for point in points:
        if left < 1:
            break
        if point.recipe(models) is None:
            continue
        slope = slopes_of(book, models, point.key) if left > n else None
        taken.append(point)
        slopes.append(slope)
        left -= 1 + n * (slope is not None)
    return Known(taken, slopes)


def fitted(known: Known, names: Sequence[str], datasets: Sequence[str]) -> dict[str, Surrogate]:
    """Returns a surrogate of the loss on each dataset.

    Args:
        known: at least one point.
        names: the vectors, in the order of the surrogates' coordinates.
        datasets: the datasets.
    """
    from evaluation.landscape.loss_surrogate import Surrogate

    points = np.array([[point.omegas[name] for name in names] for point in known.points])
    nothing = [np.nan] * len(names)
    return {
        dataset: Surrogate(
            points,
            np.array([point.losses[dataset] for point in known.points]),
            np.array(
                [
                    [slope[dataset][name] for name in names] if slope else nothing
                    for slope in known.slopes
                ]
            ),
        )
        for dataset in datasets
    }


def _geometry(models: Models) -> dict[str, Any]:
    """Returns the inner products of the vectors, if they are known or soon measured, as JSON."""
    if not (models.has_geometry or is_small(models)):
        return {}
    geometry = models.measured_geometry()
    gram, square = geometry.grams.sum(0), float(geometry.base_squares.sum())
    # JSON has no NaN, which a vector with broken weights would bring.
    known = np.isfinite(gram).all() and np.isfinite(square)
    return {"gram": gram.tolist(), "square": square} if known else {}


def surrogate_data(surrogate: Surrogate) -> dict[str, Any]:
    """Returns a surrogate as JSON: its terms, what its errors follow from, and its R²."""
    terms, spread, r2 = surrogate.expansion, surrogate.spread, surrogate.r2()
    return {
        "constant": terms.constant,
        "linear": terms.linear.tolist(),
        "curvature": terms.curvature.tolist(),
        "values": terms.values.tolist(),
        "slopes": terms.slopes.tolist(),
        **spread._asdict(),
        "r2": r2 if np.isfinite(r2) else None,
    }


def _ends(book: LossCache, models: Models, dataset: str) -> dict[str, float | None]:
    """Returns the losses of the base and of the dataset's own expert; None if not measured."""
    key = models.data[dataset].keys[FULL]
    expert = models.recipe({dataset: 1.0}) if dataset in models.vectors else None
    recipes = {"base": models.recipe({}), "expert": expert}
    entries = {
        end: book.get(models.identity(recipe), key) if recipe else None
        for end, recipe in recipes.items()
    }
    return {end: entry.value if entry else None for end, entry in entries.items()}
