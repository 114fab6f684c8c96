"""Describes to a page what is open: vectors, methods and their fields, presets, data, its state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.commands import display_path
from workbench.comparison.best_known import best_known
from workbench.line.contract import (
    standing_of,
    standing_of_recipe,
    state_of,
)
from workbench.line.formula_parts import formula_parts
from workbench.session.models import OMEGA_RANGE
from workbench.session.standing import file_only_methods, live_methods, uniform

if TYPE_CHECKING:
    from merging.methods._values import Param
    from workbench.line.page_states import PageStates
    from workbench.session.models import Models
    from workbench.session.session import Session


def description(
    session: Session, states: PageStates, page: str = "", recipe: str = ""
) -> dict[str, Any]:
    """Returns all that a page needs to draw its sliders and bars.

    Args:
        session: the session, with open models; see workbench.line.announcement for one without.
        states: the states of pages that were kept.
        page: the page, to return to the state that it was left in.
        recipe: the digest of a recipe that some page showed, to begin there; it counts before the
            page's own state.

    Returns:
        A JSON object; docs/page.md lists its keys.
    """
    from corpus.chat_template import has_template

    models = session.models
    state, note = _state(session, states, page, recipe)
    return {
        "models": models.key,
        "template": has_template(models.loaded.tokenizer),
        "base": display_path(models.base.path),
        "range": list(OMEGA_RANGE),
        "vectors": vector_rows(models.names, models.adapters),
        "data": dataset_rows(models.names, models.data),
        **fields_of_methods(len(models.names)),
        "presets": _presets(session),
        "suites": _suites(),
        "state": state,
        "formula": formula_parts(models.recipe({})),
        "note": note,
    }


def _suites() -> dict[str, list[str]]:
    """Returns the suites that need no network: name -> tasks."""
    from evaluation import harness

    return {name: harness.suite_tasks(name) for name in sorted(harness.suites())}


def _state(
    session: Session, states: PageStates, page: str, recipe: str
) -> tuple[dict[str, Any], str]:
    """Returns the state to show, and a note if the one that was asked for cannot be shown."""
    models = session.models
    start = state_of(session.standing, models)
    note = ""
    if recipe:
        kept = states.recipe(recipe)
        if kept and _fits(kept, models):
            return {**start, **kept}, ""
        note = (
            f"Recipe {recipe[:16]} belongs to other models than those that are open."
            if kept
            else f"Recipe {recipe[:16]} is not known here."
        )
    kept = states.page(page)
    return ({**start, **kept}, note) if kept and _fits(kept, models) else (start, note)


def _fits(state: Mapping[str, Any], models: Models) -> bool:
    """Returns whether a kept state is one of the open models."""
    from workbench.errors import is_user_error

    if state.get("models") != models.key:
        return False
    try:
        standing_of(state, models)
    except Exception as error:
        if not is_user_error(error):
            raise
        return False
    return True


def vector_rows(names: Sequence[str], adapters: Sequence[str]) -> list[dict[str, Any]]:
    """Returns what the page is told of each vector."""
    return [
        {"name": name, "colour": index % 8, "adapter": name in adapters}
        for index, name in enumerate(names)
    ]


def dataset_rows(vectors: Sequence[str], datasets: Iterable[str]) -> list[dict[str, Any]]:
    """Returns the datasets with their colours: that of the vector, or the next free one."""
    rows, extra = [], len(vectors)
    for name in datasets:
        rows.append(
            {"name": name, "colour": (vectors.index(name) if name in vectors else extra) % 8}
        )
        extra += name not in vectors
    return rows


def plain_presets(names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the presets for which nothing has to be measured.

    A preset is a label, what it means, and the composition that it sets.
    """
    return [
        {"label": label, "about": about, "to": {"omegas": dict.fromkeys(names, omega)}}
        for label, about, omega in (
            ("base", "all ω at 0", 0.0),
            ("uniform", "each ω at 1 / number of vectors", uniform(len(names))),
        )
    ]


def _presets(session: Session) -> list[dict[str, Any]]:
    """Returns all presets."""
    best = best_preset(session)
    return [*plain_presets(session.models.names), *([best] if best else [])]


def best_preset(session: Session) -> dict[str, Any] | None:
    """Returns the preset that sets the best known composition; None if nothing is known."""
    best = best_known(session)
    standing = standing_of_recipe(best.recipe, session.models) if best else None
    if best is None or standing is None:
        return None
    return {"label": "best", "about": best.about, "to": state_of(standing, session.models)}


def fields_of_methods(vectors: int) -> dict[str, Any]:
    """Returns the methods that run live on this many vectors, and those that run elsewhere only."""
    return {
        "methods": [_method(name) for name in live_methods(vectors)],
        "elsewhere": file_only_methods(),
    }


def _method(name: str) -> dict[str, Any]:
    from merging.methods import _contract as methods

    method = methods.load(name)
    least, most = method.vectors
    return {
        "name": name,
        "formula": method.formula,
        "weighted": method.weighted,
        "least": least,
        "most": most,
        "parameters": [_field(param) for param in method.parameters if not param.file],
    }


def _field(param: Param) -> dict[str, Any]:
    kind = "word" if param.choices else "tick" if param.type is bool else "number"
    return {
        "name": param.name,
        "kind": kind,
        "whole": param.type is int,
        "choices": list(param.choices),
        "default": param.default,
        "low": param.low if math.isfinite(param.low) else None,
        "high": param.high if math.isfinite(param.high) else None,
        "help": param.help,
        "per_vector": param.per_vector,
    }
