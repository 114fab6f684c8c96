"""While an adapter's slider is dragged: the quick losses of where it is, with no weight written; settling follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from workbench.errors import is_user_error
from workbench.page.tabs import compose, sliders
from workbench.page.tabs.wiring import QUIET, current_recipe, with_error_dialog
from workbench.session.history import History
from workbench.session.session import Session, Standing


def numbered(inputs: Sequence[Any]) -> str:
    """A script that puts the number of this wish, as the page counts them, in the place of the first input.

    gradio hands it the outputs' values too, which are not sent.
    """
    return f"(...words) => window.dem.numbered(words.slice(0, {len(inputs)}))"


def wire(
    session: Session,
    pane: sliders.Pane,
    chart: gr.HTML,
    header: gr.HTML,
    told_at: Callable[..., Markup],
) -> None:
    """What the page's script asks for during a drag, one at a time: the latest move waits, those before it are dropped.

    Args:
        session: the session.
        pane: the sliders.
        chart: where the losses are drawn.
        header: the bar at the top.
        told_at: its HTML, for a session, a state, a recipe's digest and a note.
    """

    def previewed(
        request: gr.Request, number: int, history: History[Standing], *wish: Any
    ) -> list[Any]:
        client, nothing = request.session_hash or "page", [gr.skip(), gr.skip()]
        # A page that has just opened moves its own sliders, and settles at once.
        if (
            not session.ready
            or history.present is None
            or (stale := session.tickets.wish(client, number)) is None
        ):
            return nothing
        settled = current_recipe(session, history)
        try:
            at = sliders.wished(session, wish)
            reading = session.preview(settled, session.recipe(at.omegas, at.choice), stale)
        except Exception as error:
            if not is_user_error(error):
                raise
            if stale():
                return nothing
            # A move that has to be composed, and a wish that cannot be: both are seen when it is settled.
            return [told_at(session, "composing", settled.digest, str(error)), gr.skip()]
        if reading is None or stale():
            return nothing
        return [
            told_at(session, "preview", reading.recipe.digest),
            compose.chart_html(session, reading),
        ]

    asked = [pane.number, pane.history, *pane.wish]
    wire = {"trigger_mode": "multiple", "concurrency_limit": 4, **QUIET}
    shown = pane.preview.click(
        with_error_dialog(previewed), asked, [header, chart], js=numbered(asked), **wire
    )
    shown.then(None, None, None, js="() => window.dem.previewed()", **QUIET)
