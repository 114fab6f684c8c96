"""The routes of searches: what was measured, how a search goes, and its begin and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from workbench.errors import SessionError
from workbench.line.contract import ProtocolError
from workbench.line.requests import NO_STORE, done
from workbench.line.search_cost import seconds_of
from workbench.line.search_found import found
from workbench.line.searched_trials import recipe_of_trial, searched_trials
from workbench.search import process
from workbench.search.coordinates import whole_vectors, with_parameters
from workbench.search.measured import MeasuredPoint, measured_points, plain_points
from workbench.search.paired import paired_errors
from workbench.search.wanted import TaskAim, Wanted
from workbench.session.standing import PLAIN, Choice

if TYPE_CHECKING:
    from merging.recipe import Recipe
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
    "groups": lambda value: isinstance(value, str),
    "tasks": lambda value: _are_names(value),
    "suite": lambda value: isinstance(value, str),
    "limit": lambda value: value is None or (type(value) is int and 1 <= value <= 1_000_000),
    "limited": lambda value: isinstance(value, bool),
    "screened": lambda value: isinstance(value, bool),
    "frozen": lambda value: _are_names(value),
    "merge": lambda value: (
        isinstance(value, dict)
        and set(value) == {"method", "parameters"}
        and isinstance(value["method"], str)
        and isinstance(value["parameters"], dict)
    ),
    "vary": lambda value: isinstance(value, dict) and all(map(_is_range, value.values())),
    "weights": lambda value: (
        isinstance(value, dict) and all(type(weight) in (int, float) for weight in value.values())
    ),
}
"""Keys of what a page may ask a search for, and what each value must be."""


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_range(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(end) in (int, float) for end in value)
    )


def add_search_routes(router: APIRouter, session: Session) -> None:
    """Adds the routes of searches to those of the live line.

    GET  /live/trials          the compositions that were measured
    GET  /live/search/trials   those of groups of layers, benchmarks and other merge methods
    GET  /live/search/found    the best of the newest search, where sliders cannot show it
    POST /live/search/recipe   the recipe of one of these trials, by its digest
    POST /live/search/plan     the command of a search, and how long it will take; starts nothing
    POST /live/search          starts a search of ω
    POST /live/search/stop     ends it, /live/search/resume goes on with it

    Args:
        router: gets the routes.
        session: the session.
    """

    @router.get("/trials")
    def measured() -> Response:
        document = trials(session) if session.ready else {"trials": []}
        return JSONResponse(document, headers=NO_STORE)

    @router.get("/search/trials")
    def of_searches() -> Response:
        document = searched_trials(session) if session.ready else {"searches": []}
        return JSONResponse(document, headers=NO_STORE)

    @router.post("/search/recipe")
    async def recipe_of(request: Request) -> Response:
        return await done(request, lambda document: recipe_of_trial(session, document))

    @router.get("/search/found")
    def best_found() -> Response:
        document = found(session) if session.ready else None
        return JSONResponse(document, headers=NO_STORE)

    @router.post("/search/plan")
    async def planned(request: Request) -> Response:
        return await done(request, lambda document: plan(session, document))

    @router.post("/search")
    async def search(request: Request) -> Response:
        return await done(request, lambda document: begin(session, document))

    @router.post("/search/stop")
    async def stop_search() -> Response:
        await asyncio.to_thread(process.stop, session)
        return JSONResponse(await asyncio.to_thread(process.status, session), headers=NO_STORE)

    @router.post("/search/resume")
    async def resume_search(request: Request) -> Response:
        return await done(request, lambda document: resume(session))


def begin(session: Session, document: Any) -> dict[str, Any]:
    """Starts a search that a page asks for, and returns its status.

    Args:
        session: with open models.
        document: {"models": key of the open models, "omegas": the page's ω, "wanted": {…}}. The
            keys of wanted are attributes of Wanted, and tasks, suite and limit, those of its
            TaskAim. Those left out have its defaults. With "frozen" or "reach" the search begins at
            the page's ω. With "vary", {parameter: [low, high] or null}, "merge" is the page's
            {"method", "parameters"}; without it the search is of sums of vectors.

    Raises:
        ProtocolError: the document has another form.
        SessionError: the search cannot be started.
        TaskError: a task is unknown or not available.
    """
    from evaluation import harness

    recipe, wanted = _asked(session, document)
    if wanted.bench:
        harness.check(list(wanted.bench.tasks) or wanted.bench.suite)
    process.submit(session, recipe, wanted)
    return process.status(session) or {}


def resume(session: Session) -> dict[str, Any]:
    """Goes on with the newest search, and returns its status; see process.resume."""
    process.resume(session)
    return process.status(session) or {}


def plan(session: Session, document: Any) -> dict[str, Any]:
    """Returns the command of a search and its expected seconds (None if not known).

    Args:
        session, document: see begin.

    Raises:
        ProtocolError, SessionError: the search could not be started.
    """
    recipe, wanted = _asked(session, document)
    wanted.space(tuple(session.models.names))  # raises if ω have no room
    return {
        "command": process.command(session, recipe, wanted),
        "seconds": seconds_of(session, wanted),
    }


def _asked(session: Session, document: Any) -> tuple[Recipe, Wanted]:
    """Returns the recipe that names the models, and what is wanted."""
    if not (isinstance(document, dict) and set(document) == {"models", "omegas", "wanted"}):
        raise ProtocolError("expected models, omegas and wanted.")
    omegas, wanted = document["omegas"], document["wanted"]
    if not (isinstance(omegas, dict) and isinstance(wanted, dict)):
        raise ProtocolError("expected objects omegas and wanted.")
    models = session.models
    if document["models"] != models.key:
        raise SessionError("other models are open; show them first.")
    if models.data_folder is None:
        raise SessionError(
            "a search measures losses, and no data are open. Choose a data folder under Models."
        )
    for key, value in wanted.items():
        if key not in _KINDS or not _KINDS[key](value):
            raise ProtocolError(f"wanted has {key} = {str(value)[:60]!r}.")
    more = dict(wanted)
    more |= _method(more.pop("merge", {}), more.pop("vary", {}))
    recipe = models.recipe(omegas, more["merge"])  # raises if an ω is out of range
    bench = {key: more.pop(key) for key in ("tasks", "suite", "limit") if key in more}
    if more.get("aim") == "score":
        more["bench"] = TaskAim(**{**bench, "tasks": tuple(bench.get("tasks", ()))})
    if "frozen" in more:
        more["frozen"] = tuple(more["frozen"])
    if more.get("frozen") or more.get("reach") is not None:
        more["start"] = dict(omegas)
    else:
        # The ω do not count then, so that the same search is recognised wherever sliders stand.
        recipe = _anywhere(recipe, models, more["merge"])
    asked = Wanted(**more)
    # Raises if the method has no such number, or does not take these values.
    with_parameters(whole_vectors(models, asked.merge), asked.vary)
    return recipe, asked


def _method(merge: Mapping[str, Any], vary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the merge method and the ranges in which its parameters are searched; see Wanted."""
    from merging.methods import _contract as methods

    if not vary:
        return {"merge": PLAIN, "vary": {}}
    if not merge:
        raise ProtocolError("expected the merge method whose parameters are searched.")
    method = methods.load(merge["method"])
    if method.base_role == "vector":
        raise SessionError(
            f"{method.name} takes the base as one more model, which a search cannot. "
            "Use another method."
        )
    # One that every recipe must give, and that the page has not yet, begins in the middle.
    empty = {
        param.name: (param.low + param.high) / 2
        for param in method.parameters
        if param.name in vary and param.default is None
    }
    ranges = {name: None if ends is None else (ends[0], ends[1]) for name, ends in vary.items()}
    return {"merge": Choice.of(method.name, empty | merge["parameters"]), "vary": ranges}


def _anywhere(recipe: Recipe, models: Models, merge: Choice) -> Recipe:
    """Returns the recipe of a search that begins wherever sliders stand."""
    if merge == PLAIN:
        return models.recipe({})
    # A method without ω combines the models that its recipe lists.
    weighted = any(omega is not None for omega in recipe.omegas.values())
    return models.recipe(dict.fromkeys(models.names, 1.0), merge) if weighted else recipe


def trials(session: Session) -> dict[str, Any]:
    """Returns the measured sums of the open vectors as JSON, the lowest mean loss first."""
    models = session.models
    points = plain_points(measured_points(session.book, models))
    base = next((point for point in points if not any(point.omegas.values())), None)
    return {
        "models": models.key,
        "names": models.names,
        "datasets": list(models.data),
        "count": len(points),
        "trials": [
            _trial(point, models, _worse(session, point, base)) for point in points[:MOST_TRIALS]
        ],
    }


def _worse(session: Session, point: MeasuredPoint, base: MeasuredPoint | None) -> list[str]:
    """Returns the datasets whose loss is above the base's by more than its standard error."""
    if base is None:
        return []
    above = {name: loss - base.losses[name] for name, loss in point.losses.items()}
    # An error reads the losses of all examples, so it is asked only where a loss is above.
    names = [name for name, excess in above.items() if excess > 0]
    recipe, without = session.models.recipe(point.omegas), session.models.recipe({})
    errors = paired_errors(session, session.models, recipe, without, names) or {}
    return [name for name in names if above[name] > errors.get(name, 0.0)]


def _trial(point: MeasuredPoint, models: Models, worse: Sequence[str]) -> dict[str, Any]:
    return {
        "worse": list(worse),
        "omegas": [point.omegas[name] for name in models.names],
        "losses": [point.losses[name] for name in models.data],
        "mean": point.mean,
    }
