"""Forecast: what a page needs to predict the losses of any slider position by itself.

Each dataset has a surrogate of its loss, fitted to what was measured of plain sums of the open
vectors. It is sent as a sum of few terms, so that the prediction follows a hand with no question
to the server; assets/live/forecast.js computes it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.search.measured import measured_points, plain_points, slopes_of
from workbench.search.points import is_small
from workbench.session.loss_on_axis import FULL

if TYPE_CHECKING:
    from evaluation.landscape.loss_surrogate import Surrogate
    from evaluation.records.loss_cache import LossCache
    from evaluation.search import Trial
    from workbench.session.models import Models
    from workbench.session.session import Session

ROWS = 240
"""The most numbers per dataset that a forecast is fitted to: a loss, and each of its derivatives.
Its time grows with their cube: 240 take some 0.1 s for each dataset here, and 30 ms in a page."""
FEWEST = 4
"""Numbers below which nothing is predicted."""


class Forecasts:
    """Makes forecasts; what nothing new was measured for is not fitted again. Any thread may ask.

    Args:
        session: the session, whose measured compositions are read.
    """

    def __init__(self, session: Session):
        self._session = session
        # Held while fitting: two pages that ask at once would fit the same twice.
        self._lock = threading.Lock()
        self._last: tuple[object, dict[str, Any]] = (None, {})

    def of(self, models: Models) -> dict[str, Any]:
        """Returns the forecast for the open models as JSON; docs/page.md lists its keys."""
        with self._lock:
            known = gathered(self._session.book, models)
            measured = [(trial.point, trial.has_gradients) for trial in known]
            if self._last[0] != (models.key, measured):
                self._last = (models.key, measured), self._fitted(models, known)
            return self._last[1] | _geometry(models)

    def _fitted(self, models: Models, known: Sequence[Trial]) -> dict[str, Any]:
        document: dict[str, Any] = {"models": models.key, "names": models.names, "datasets": {}}
        document["count"] = len(known)
        if rows(known) < FEWEST or len(known) < 2:
            return document
        from evaluation.search.surrogate import fit

        surrogates = fit(models.names, known)
        points = next(iter(surrogates.values())).points
        return document | {
            "points": points.tolist(),
            "sloped": [trial.has_gradients for trial in known],
            "low": points.min(0).tolist(),
            "high": points.max(0).tolist(),
            "datasets": {
                name: surrogate_data(surrogate) | self._ends(models, name)
                for name, surrogate in surrogates.items()
            },
        }

    def _ends(self, models: Models, dataset: str) -> dict[str, float | None]:
        """Returns the losses of the base and of the dataset's own expert; None if not known."""
        base, expert = self._session.measuring.known.ends(models, dataset, FULL) or (None, None)
        return {"base": base and base.value, "expert": expert and expert.value}


def gathered(book: LossCache, models: Models) -> list[Trial]:
    """Returns the measured sums with their derivatives, at most ROWS numbers per dataset.

    Of too many the best by mean loss are taken, because there the sliders stand, and before them
    the base and the vectors alone, because there they begin.
    """
    from evaluation.search import Measured, Trial

    points = plain_points(measured_points(book, models))
    # A sort keeps the order of equal keys, so the others stay the best first.
    points.sort(key=lambda point: sum(omega != 0 for omega in point.omegas.values()) > 1)
    taken: list[Trial] = []
    left, n = ROWS, len(models.names)
    for point in points:
        if left < 1:
            break
        if point.recipe(models) is None:
            continue
        slopes = slopes_of(book, models, point.key) if left > n else None
        taken.append(Trial(dict(point.omegas), point.mean, Measured(point.losses, slopes)))
        left -= 1 + n * (slopes is not None)
    return taken


def rows(known: Sequence[Trial]) -> int:
    """Returns how many numbers per dataset were measured: losses and their derivatives."""
    return sum(1 + len(trial.point) * trial.has_gradients for trial in known)


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
