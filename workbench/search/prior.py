"""What a search knows when it begins: compositions that others have measured before.

The list is kept in the workdir. So a search that is run again begins with the same knowledge,
proposes the same points, and finds them measured, although its own trials are in the cache by then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from plumbing.atomic import write_whole
from workbench.errors import SessionError
from workbench.search.forecast import gathered
from workbench.search.measured import measured_points, plain_points, slopes_of
from workbench.search.region import Region
from workbench.search.wanted import Wanted
from workbench.session.keys import fingerprint
from workbench.session.loss_on_axis import FULL

if TYPE_CHECKING:
    from evaluation.search import Measured
    from workbench.session.models import Models
    from workbench.session.session import Session


def known_before(
    session: Session, models: Models, wanted: Wanted, region: Region
) -> list[tuple[dict[str, float], Measured]]:
    """Returns the sums of the open vectors that were measured before this search was first begun.

    Args:
        session: whose workdir is read, and gets the list if this search is new.
        models: its open models.
        wanted: what is searched for. A search with another budget is the same one.
        region: where it looks.

    Returns:
        Points of the region's coordinates, the base among them if it was measured, with what was
        measured there. Points that limits or bounds forbid are there too.

    Raises:
        SessionError: the list is damaged.
        OSError: it cannot be written.
    """
    from evaluation.search import Measured

    file = _file(session, models, wanted)
    kept = _read(file)
    if kept is None:
        kept = {_key(trial.point): trial.has_gradients for trial in gathered(session.book, models)}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(kept))
    # Not those of `gathered` again: what was measured since could take their places there.
    points = {
        _key(point.omegas): point for point in plain_points(measured_points(session.book, models))
    }
    found = []
    for key, has_slopes in kept.items():
        # The cache may have been emptied since then.
        if point := points.get(key):
            # Derivatives by the ω of a whole vector are none by those of its groups.
            usable = has_slopes and not region.coordinates.by
            slopes = slopes_of(session.book, models, point.key) if usable else None
            at = region.coordinates.point_of(point.omegas, {})
            found.append((at, Measured(point.losses, slopes)))
    return found


def _file(session: Session, models: Models, wanted: Wanted) -> Path:
    options = replace(wanted, budget=Wanted.budget).options()
    # Not Models.key, which has the quick examples too: they depend on the speed of the machine.
    data = {name: data.keys[FULL] for name, data in models.data.items()}
    about = [models.base.identity, models.identities, data]
    key = fingerprint([about, options, sorted(wanted.start.items()), str(wanted.merge)])[:16]
    return session.workdir.known / f"{key}.json"


def _read(file: Path) -> dict[str, bool] | None:
    try:
        return dict(json.loads(file.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except ValueError:
        raise SessionError(
            f"{file} is damaged. Delete it, and the search begins anew with all that is measured."
        ) from None


def _key(omegas: Mapping[str, float]) -> str:
    return json.dumps(sorted(omegas.items()))
