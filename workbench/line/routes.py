"""The routes of the live line, beside gradio's, behind the same login, host and origin checks."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from workbench.errors import is_user_error
from workbench.line.announcement import announcement
from workbench.line.answers import Answer
from workbench.line.contract import (
    ProtocolError,
    Wish,
    page_of,
    standing_of,
    state_of,
    wish_of,
)
from workbench.line.data_files import add_data_files
from workbench.line.description import description
from workbench.line.page_states import PageStates
from workbench.line.requests import NO_STORE, document_of, done
from workbench.line.scheduler import Scheduler
from workbench.line.search_routes import add_search_routes
from workbench.search.forecast import Forecasts
from workbench.search.process import status

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from merging.recipe import Recipe
    from workbench.session.session import Session

log = logging.getLogger(__name__)

PAGES = 500
"""How many pages are remembered while the server runs."""
UNEXPECTED = "Unexpected error. See the server log for details."


@dataclass
class _Page:
    """What the server remembers of a page while it runs."""

    turn: int = -1
    """The newest wish that has arrived."""
    settled: Recipe | None = None
    """The recipe that was composed for the page last."""


class Line:
    """The server's side of the live line.

    Args:
        session: the session.
    """

    def __init__(self, session: Session):
        self._session = session
        self._scheduler = Scheduler()
        self.forecasts = Forecasts(session)
        self.states = PageStates(session.workdir.pages, log.warning)
        self._pages: OrderedDict[str, _Page] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Ends all answers and closes the file of states."""
        self._scheduler.close()
        self.states.close()

    def start(
        self, wish: Wish, send: Callable[[dict[str, Any] | None], None]
    ) -> Callable[[], None]:
        """Begins to answer a wish, and returns what ends the answer early.

        Args:
            wish: what a page wants to see.
            send: called from any thread with each message, and with None after the last one.
        """
        page = self._page(wish.page)
        with self._lock:
            # Requests may arrive in another order than they were sent in.
            if wish.turn <= page.turn:
                send({"turn": wish.turn, "stage": "stale"})
                send(None)
                return lambda: None
            page.turn = wish.turn
        if not self._session.ready:
            send({"turn": wish.turn, "stage": "empty", "message": self._session.problem})
            send(None)
            return lambda: None
        if wish.models != (key := self._session.models.key):
            send({"turn": wish.turn, "stage": "behind", "models": key})
            send(None)
            return lambda: None
        waited = self._scheduler.is_awaited
        answer = Answer(self._session, wish, page.settled, lambda: page.turn != wish.turn, waited)

        def deliver(message: dict[str, Any]) -> None:
            if page.turn == wish.turn:
                if message["stage"] == "settled":
                    assert answer.recipe is not None
                    page.settled = answer.recipe
                    self._session.shown.add(answer.recipe)
                send(message)

        def ended(error: Exception | None) -> None:
            from evaluation.errors import Stopped

            if error is not None and not isinstance(error, Stopped):
                send({"turn": wish.turn, **_refusal(error, wish)})
            send(None)

        return self._scheduler.submit(wish.page, answer.phases(), deliver, ended)

    def _page(self, name: str) -> _Page:
        with self._lock:
            page = self._pages.setdefault(name, _Page())
            self._pages.move_to_end(name)
            while len(self._pages) > PAGES:
                self._pages.popitem(last=False)
            return page

    def keep(self, document: Any) -> str:
        """Stores the state of a page that has come to rest, and returns its recipe's digest.

        Args:
            document: page, models and state; the state has method, parameters, omegas and whatever
                else the page wants back.

        Raises:
            ProtocolError: the document has another form.
            SessionError, MergingError: the state is none of the open models.
        """
        if not isinstance(document, dict) or set(document) != {"page", "models", "state"}:
            raise ProtocolError("expected page, models and state.")
        state = document["state"]
        if not (
            isinstance(state, dict)
            and isinstance(state.get("omegas"), dict)
            and isinstance(state.get("parameters"), dict)
            and isinstance(state.get("method"), str)
        ):
            raise ProtocolError("state has no method, parameters and omegas.")
        models = self._session.models
        if document["models"] != models.key:
            raise ProtocolError("other models are open.")
        standing = standing_of(state, models)
        recipe = self._session.settle(standing)
        kept = {"models": models.key, **state_of(standing, models)}
        whole = {**state, "models": models.key}
        self.states.keep(page_of(document["page"]), whole, recipe.digest, kept)
        return recipe.digest


def _refusal(error: Exception, wish: Wish) -> dict[str, Any]:
    """Returns the message for an error: what the user did wrong, or that the log has the reason."""
    if is_user_error(error):
        return {"stage": "refused", "message": str(error), "field": getattr(error, "field", "")}
    log.exception("the answer to a page failed (method %s)", wish.method, exc_info=error)
    return {"stage": "refused", "message": UNEXPECTED, "field": ""}


def admitted(request: Request) -> None:
    """Refuses a request without a login, if the server has one; gradio's login sets the cookie."""
    app = request.app
    if app.auth is None and app.auth_dependency is None:
        return
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    if not any(app.tokens.get(request.cookies.get(name)) for name in names):
        raise HTTPException(status_code=401, detail="Log in first.")


def routes(session: Session) -> tuple[Line, list[BaseRoute]]:
    """Returns the live line of a session, and its routes for the page's application.

    GET  /live/open?page=…&recipe=…   what is open, and the state to show
    GET  /live/here                   that the server is here, and which models are open
    GET  /live/forecast               what predicts the losses of any slider position
    …    /live/trials, /live/search…  see add_search_routes
    GET  /live/data/…                 files to download; see add_data_files
    POST /live/move                   a Wish; answered by lines of JSON
    POST /live/keep                   the state of a page at rest

    Args:
        session: the session.
    """
    line = Line(session)
    router = APIRouter(prefix="/live", dependencies=[Depends(admitted)])

    @router.get("/here")
    def here() -> Response:
        key = session.models.key if session.ready else ""
        return JSONResponse({"models": key, "search": status(session)}, headers=NO_STORE)

    @router.get("/open")
    def opened(page: str = "", recipe: str = "") -> Response:
        describe = description if session.ready else announcement
        return JSONResponse(describe(session, line.states, page, recipe), headers=NO_STORE)

    @router.get("/forecast")
    def predicted() -> Response:
        document = line.forecasts.of(session.models) if session.ready else {"datasets": {}}
        return JSONResponse(document, headers=NO_STORE)

    add_search_routes(router, session)
    add_data_files(router, session)

    @router.post("/move")
    async def move(request: Request) -> Response:
        try:
            wish = wish_of(await document_of(request))
        except ProtocolError as error:
            return JSONResponse({"error": str(error)}, status_code=400, headers=NO_STORE)
        return StreamingResponse(
            _stream(line, wish), media_type="application/x-ndjson", headers=NO_STORE
        )

    @router.post("/keep")
    async def keep(request: Request) -> Response:
        return await done(request, lambda document: {"digest": line.keep(document)})

    return line, router.routes


async def _stream(line: Line, wish: Wish) -> AsyncIterator[bytes]:
    """Yields the lines of an answer; ends the answer if the page goes away."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

    def send(message: dict[str, Any] | None) -> None:
        # The scheduler's thread may have one more message when the server is closing its loop.
        if not loop.is_closed():
            loop.call_soon_threadsafe(lines.put_nowait, message)

    cancel = await asyncio.to_thread(line.start, wish, send)
    try:
        while (message := await lines.get()) is not None:
            yield (json.dumps(message, ensure_ascii=False, allow_nan=False) + "\n").encode()
    finally:
        cancel()
