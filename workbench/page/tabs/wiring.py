"""What all parts of the page share: how listeners are wired, how errors are told, what the panes exchange."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from workbench.errors import is_user_error
from workbench.session.history import History
from workbench.session.session import Session, Standing

if TYPE_CHECKING:
    from merging.recipe import Recipe

log = logging.getLogger(__name__)

POOL = 16
"""Sliders made in advance; as many as there are vectors are shown. gradio's render() would lose their values."""

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""For every listener: no public endpoint, no spinner over what the reader looks at."""
LATEST: dict[str, Any] = {"trigger_mode": "always_last", **QUIET}
"""For a listener to a value: a change while an answer is under way is answered after it."""


def writing(place: str) -> dict[str, Any]:
    """For every listener that reads values and writes a place: one after another, in the order of the changes."""
    return {"concurrency_limit": 1, "concurrency_id": place, **LATEST}


@dataclass(frozen=True)
class Board:
    """The components that more than one part of the page reads."""

    history: gr.State
    """A History of Standings. Its present is what the page stands at: what formula, digest and losses are of."""
    digest: gr.Textbox
    """The digest of the recipe that the page stands at; its change tells the tabs."""
    theme: gr.Textbox
    """light or dark."""
    opened: gr.Textbox
    """Changes when other models were opened."""


def with_error_dialog(work: Callable[..., Any]) -> Callable[..., Any]:
    """Show an error as one message: its own words where it was written for the reader, else where to look."""

    def tell(error: Exception) -> gr.Error:
        if is_user_error(error):
            return gr.Error(
                escape(str(error)).replace("\n", "<br>"),
                title="That did not work",
                duration=None,
                print_exception=False,
            )
        log.exception("a listener failed", exc_info=error)
        return gr.Error(
            "Something unexpected happened; the server's log has the details.", title="Error"
        )

    if inspect.isgeneratorfunction(work):

        @functools.wraps(work)
        def stream(*values: Any) -> Any:
            try:
                yield from work(*values)
                yield gr.skip()  # gradio says the last answer once more at the end, when it may be old
            except gr.Error:
                raise
            except Exception as error:
                raise tell(error) from None

        return stream

    @functools.wraps(work)
    def once(*values: Any) -> Any:
        try:
            return work(*values)
        except gr.Error:
            raise
        except Exception as error:
            raise tell(error) from None

    return once


def current_recipe(session: Session, history: History[Standing]) -> Recipe:
    """The recipe that a page stands at; every action of the page is on this one."""
    at = history.present or session.standing
    return session.recipe(at.omegas, at.choice)


def omegas_of(session: Session, values: Sequence[float]) -> tuple[float, ...]:
    """The ω of the sliders that are in use, out of the whole pool."""
    return tuple(0.0 if value is None else value for value in values[: len(session.models.names)])
