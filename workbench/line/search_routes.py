"""The routes of searches: what was measured, how a search goes, starting and stopping one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from workbench.errors import SessionError
from workbench.line.contract import ProtocolError
from workbench.search import process
from workbench.search.measured import MeasuredPoint, measured_points, plain_points
from workbench.search.wanted import Wanted

if TYPE_CHECKING:
    from workbench.session.models import Models
    from workbench.session.session import Session

MOST_TRIALS = 2_000
"""The most compositions that a page lists; those with the lowest mean loss are kept."""
_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "aim": lambda value: isinstance(value, str),
    "method": lambda value: isinstance(value, str),
    "budget": lambda value: type(value) is int and value <= 1_000_000,
    "low": lambda value: type(value) in (int, float),
    "high": lambda value: type(value) in (int, float),
    "reach": lambda value: value is None or type(value) in (int, float),
    "highest_sum": lambda value: value is None or type(value) in (int, float),
    "highest_norm": lambda value: value is None or type(value) in (int, float),
    "limited": lambda value: isinstance(value, bool),
    "screened": lambda value: isinstance(value, bool),
    "frozen": lambda value: (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    ),
    "weights": lambda value: (
        isinstance(value, dict) and all(type(weight) in (int, float) for weight in value.values())
    ),
}
"""Keys of what a page may ask a search for, and what each value must be."""


def begin(session: Session, document: Any) -> dict[str, Any]:
    """Starts a search that a page asks for, and returns its status.

    Args:
        session: with open models.
        document: {"models": key of the open models, "omegas": the page's ω, "wanted": {…}}; the
            keys of wanted are attributes of Wanted, and those left out have its defaults. With
            "frozen" or "reach" the search begins at the page's ω.

    Raises:
        ProtocolError: the document has another form.
        SessionError: the search cannot be started.
    """
    if not (isinstance(document, dict) and set(document) == {"models", "omegas", "wanted"}):
        raise ProtocolError("expected models, omegas and wanted.")
    omegas, wanted = document["omegas"], document["wanted"]
    if not (isinstance(omegas, dict) and isinstance(wanted, dict)):
        raise ProtocolError("expected objects omegas and wanted.")
    models = session.models
    if document["models"] != models.key:
        raise SessionError("other models are open; show them first.")
    for key, value in wanted.items():
        if key not in _KINDS or not _KINDS[key](value):
            raise ProtocolError(f"wanted has {key} = {str(value)[:60]!r}.")
    recipe = models.recipe(omegas)  # raises if an ω is out of range
    more = dict(wanted)
    if "frozen" in more:
        more["frozen"] = tuple(more["frozen"])
    if more.get("frozen") or more.get("reach") is not None:
        more["start"] = dict(omegas)
    else:
        # The ω do not count then, so that the same search is recognised wherever sliders stand.
        recipe = models.recipe({})
    process.submit(session, recipe, Wanted(**more))
    return process.status(session) or {}


def trials(session: Session) -> dict[str, Any]:
    """Returns the measured sums of the open vectors as JSON, the lowest mean loss first."""
    models = session.models
    points = plain_points(measured_points(session.book, models))
    return {
        "models": models.key,
        "names": models.names,
        "datasets": list(models.data),
        "count": len(points),
        "trials": [_trial(point, models) for point in points[:MOST_TRIALS]],
    }


def _trial(point: MeasuredPoint, models: Models) -> dict[str, Any]:
    return {
        "omegas": [point.omegas[name] for name in models.names],
        "losses": [point.losses[name] for name in models.data],
        "mean": point.mean,
    }
