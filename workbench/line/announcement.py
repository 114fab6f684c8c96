"""Describes the demo while it is being opened, which takes seconds: the page shows sliders at once.

What needs the weights is left out: losses, the best composition, and whether the checkpoints fit
the base. Once the models are open, `workbench.line.description` replaces all that is said here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corpus import CorpusError, dataset_files
from workbench.commands import display_path
from workbench.line.description import dataset_rows, fields_of_methods, plain_presets, vector_rows
from workbench.line.formula_parts import formula_parts
from workbench.session.models import OMEGA_RANGE
from workbench.session.opening import best_omegas
from workbench.session.standing import PLAIN

if TYPE_CHECKING:
    from pathlib import Path

    from workbench.line.page_states import PageStates
    from workbench.session.session import Session


def announcement(
    session: Session, states: PageStates, page: str = "", recipe: str = ""
) -> dict[str, Any]:
    """Returns what a page can show while no models are open.

    Args:
        session: the session.
        states: the states of pages that were kept.
        page: the page, to return to the state that it was left in.
        recipe: the digest of a recipe that some page showed; it counts before the page's own state.

    Returns:
        A JSON object; docs/page.md lists its keys. It has vectors only while the demo is being
        opened.
    """
    from merging.recipe import Recipe

    loading = not session.opened.is_set()
    known = {"models": "", "loading": loading, "problem": session.problem}
    if session.demo is None or not (loading and session.announced):
        return known
    base, paths = session.demo / "base", {path.name: path for path in session.announced}
    names = list(paths)
    best = best_omegas(base, names, session.folders.reach) or {}
    state = {
        "method": PLAIN.method,
        "parameters": {},
        "omegas": {name: best.get(name, 0.0) for name in names},
        **(_kept(states, page, recipe, names) or {}),
    }
    return known | {
        "base": display_path(base),
        "range": list(OMEGA_RANGE),
        "vectors": vector_rows(
            names, [name for name in names if (paths[name] / "adapter_config.json").is_file()]
        ),
        "data": dataset_rows(names, _datasets(session.demo / "data")),
        **fields_of_methods(len(names)),
        "presets": plain_presets(names),
        "state": state,
        "formula": formula_parts(Recipe.compose(base, paths)),
    }


def _kept(states: PageStates, page: str, recipe: str, names: list[str]) -> dict[str, Any] | None:
    """Returns the state that the page asks for, if it has exactly these vectors."""
    kept = states.recipe(recipe) if recipe else states.page(page)
    return kept if kept and set(kept["omegas"]) == set(names) else None


def _datasets(folder: Path) -> list[str]:
    """Returns the names of the datasets in a folder; [] if they cannot be listed."""
    try:
        return list(dataset_files(folder))
    except CorpusError:  # the opening tells it
        return []
