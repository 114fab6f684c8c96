"""Preview: shows quick losses while an adapter's slider is dragged, without writing any weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from workbench.errors import is_user_error
from workbench.page.tabs import compose, sliders
from workbench.page.tabs.wiring import QUIET, Updates, current_recipe, no_updates, with_error_dialog
from workbench.session.history import History
from workbench.session.session import Session, Standing


def numbered(inputs: Sequence[Any]) -> str:
    """Returns a script that replaces the first of `inputs` by the number of this request.

    The page counts its requests. gradio also passes the values of the outputs to the script, which
    drops them.
    """
    return f"(...words) => window.dem.numbered(words.slice(0, {len(inputs)}))"


def wire(
    session: Session,
    pane: sliders.Pane,
    chart: gr.HTML,
    header: gr.HTML,
    header_html: Callable[..., Markup],
) -> None:
    """Wires the previews that the page's script requests during a drag.

    The script sends one request at a time. Meanwhile only the latest move waits.

    Args:
        session: the session.
        pane: the sliders.
        chart: where the losses are drawn.
        header: the bar at the top.
        header_html: makes its HTML from session, state, digest of the recipe and note.
    """

    def preview(
        request: gr.Request, number: int, history: History[Standing], *values: Any
    ) -> Updates:
        client = request.session_hash or "page"
        # A page that has just opened moves its own sliders and then settles at once: no preview.
        if (
            not session.ready
            or history.present is None
            or (stale := session.tickets.wish(client, number)) is None
        ):
            return no_updates()
        settled = current_recipe(session, history)
        try:
            standing = sliders.read_standing(session, values)
            moved = session.recipe(standing.omegas, standing.choice)
            reading = session.preview(settled, moved, stale)
        except Exception as error:
            if not is_user_error(error):
                raise
            if stale():
                return no_updates()
            # The move needs composing, or is refused: settling shows the result of either.
            return {header: header_html(session, "composing", settled.digest, str(error))}
        if reading is None or stale():
            return no_updates()
        return {
            header: header_html(session, "preview", reading.recipe.digest),
            chart: compose.chart_html(session, reading),
        }

    asked = [pane.number, pane.history, *pane.inputs]
    wire = {"trigger_mode": "multiple", "concurrency_limit": 4, **QUIET}
    shown = pane.preview.click(
        with_error_dialog(preview), asked, [header, chart], js=numbered(asked), **wire
    )
    shown.then(None, None, None, js="() => window.dem.previewed()", **QUIET)
