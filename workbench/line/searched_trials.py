"""The trials of searches that the list of measured sums of vectors has not, as tables of a page.

These have ω of groups of layers, scores of tasks instead of losses, or another merge method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.comparison.contenders import parse_run_recipe, renewed
from workbench.errors import SessionError
from workbench.line.contract import ProtocolError, standing_of_recipe, state_of
from workbench.line.search_found import columns_of
from workbench.search import process
from workbench.search.wanted import AIM_WORDS, PERCENT

if TYPE_CHECKING:
    from workbench.search.record import SearchRecord
    from workbench.session.session import Session

MOST_ROWS = 100
"""The most trials of one search that a page lists; the best are kept."""


def searched_trials(session: Session) -> dict[str, Any]:
    """Returns the trials of each search of the open models that has any to show, as JSON.

    Args:
        session: with open models.

    Returns:
        "models": their key; "searches": the one that began last first. A search has "id", "title",
        "aim" in words, "percent" (whether the aim is told so), "groups" of layers in reading order
        ([] if each vector has one ω), "parameters" of the merge method, "count", and "rows", the
        best first. A row is what trial_row returned, without score and recipe; its "omegas" are
        vector -> a list of ω, one for each group, None where the vector changes nothing; "to" is
        the state of a page that shows the composition, None if no sliders can.
    """
    # An earlier version did not note the aim, and kept no trials.
    records = [record for record in process.records(session) if "aim" in record.about()]
    shown = [_search(session, record) for record in records]
    return {"models": session.models.key, "searches": [each for each in shown if each["count"]]}


def recipe_of_trial(session: Session, document: Any) -> dict[str, str]:
    """Returns the recipe of a trial: the name of a file for it, and its text.

    Args:
        session: with open models.
        document: {"digest": that of the recipe}.

    Raises:
        ProtocolError: the document has another form.
        SessionError: no search of the open models has such a trial.
    """
    digest = document.get("digest") if isinstance(document, dict) else None
    if not isinstance(digest, str):
        raise ProtocolError("expected the digest of a recipe.")
    for record in process.records(session):
        for row in record.trials():
            if row["digest"] == digest:
                return {"name": f"{digest}.yml", "text": row["recipe"]}
    raise SessionError(f"no search of the open models has measured a recipe {digest[:16]!r}.")


def _search(session: Session, record: SearchRecord) -> dict[str, Any]:
    about, rows = record.about(), record.trials()
    by_vector = [own for row in rows for own in row["omegas"].values()]
    groups = columns_of({group for own in by_vector for group in own if group})
    return {
        "id": record.folder.name,
        "title": about["title"],
        "aim": AIM_WORDS[about["aim"]],
        "percent": about["aim"] in PERCENT,
        "groups": groups,
        "parameters": list(rows[0]["parameters"]) if rows else [],
        "count": len(rows),
        "rows": [_row(session, row, groups) for row in rows[:MOST_ROWS]],
    }


def _row(session: Session, row: Mapping[str, Any], groups: list[str]) -> dict[str, Any]:
    models = session.models
    standing = standing_of_recipe(renewed(models, parse_run_recipe(row["recipe"])), models)
    return {
        **{key: row[key] for key in ("value", "error", "allowed", "parameters", "digest")},
        "omegas": {
            # A vector that changes nothing has one ω, for the whole model.
            vector: [own.get(group, own.get("")) for group in groups or [""]]
            for vector, own in row["omegas"].items()
        },
        "to": state_of(standing, models) if standing else None,
    }
