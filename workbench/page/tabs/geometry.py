"""Geometry: cosines between vectors, their distance from the base, and measured interference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from markupsafe import Markup

from workbench.page.tabs import markup
from workbench.page.tabs.wiring import (
    EVERY_CHANGE,
    QUIET,
    Board,
    Updates,
    no_updates,
    with_error_dialog,
)
from workbench.plots import charts
from workbench.session.session import Session

WHOLE = "whole model"
RAW, RELATIVE = "‖Δ‖", "‖Δ‖ / ‖Θ‖"


class MapValues(NamedTuple):
    """The values of the controls of both maps, and the theme."""

    layer: str
    part: str
    rows: str
    kind: str
    theme: str


class Maps(NamedTuple):
    """The components of both maps."""

    cosine: gr.Plot
    cosine_csv: gr.HTML
    distance: gr.Plot
    distance_csv: gr.HTML
    state: gr.HTML


class InterferenceView(NamedTuple):
    """The components of the interference map."""

    plot: gr.Plot
    csv: gr.HTML
    progress: gr.HTML


def build(session: Session, board: Board, tab: gr.Tab) -> None:
    """Builds the tab.

    The maps do not depend on ω. They are drawn when the tab is shown or a control changes, and
    never during a drag.
    """
    with gr.Row(elem_id="maps"):
        with gr.Column(min_width=320, elem_classes="map"):
            gr.HTML(Markup("<h2>Cosine between vectors</h2>"))
            with gr.Row(elem_classes="controls"):
                layer = gr.Dropdown([WHOLE], value=WHOLE, label="Layer", elem_id="cosine-layer")
                part = gr.Dropdown([WHOLE], value=WHOLE, label="Part", elem_id="cosine-part")
            cosine = gr.Plot(show_label=False, container=False, elem_id="cosine")
            cosine_csv = gr.HTML()
        with gr.Column(min_width=320, elem_classes="map"):
            gr.HTML(Markup("<h2>Distance from the base</h2>"))
            with gr.Row(elem_classes="controls"):
                rows = gr.Radio(
                    ["layer", "part"], value="layer", label="Rows", elem_id="distance-rows"
                )
                kind = gr.Radio(
                    [RELATIVE, RAW], value=RELATIVE, label="Measure", elem_id="distance-kind"
                )
            distance = gr.Plot(show_label=False, container=False, elem_id="distance")
            distance_csv = gr.HTML()
    state = gr.HTML(elem_id="geometry-state")
    gr.HTML(
        Markup(
            "<h2>Measured interference</h2><p class='lead'>Loss of each dataset when only one "
            "vector is added (ω = 1), and the change from the base. Vectors with near-zero cosine "
            "can still hurt each other.</p>"
        )
    )
    with gr.Row():
        go = gr.Button("Measure", size="sm", elem_id="interference-go", min_width=96, scale=0)
        progress = gr.HTML(elem_id="interference-state")
    interference = gr.Plot(show_label=False, container=False, elem_id="interference", visible=False)
    interference_csv = gr.HTML()
    controls = [layer, part, rows, kind, board.theme]
    maps = Maps(cosine, cosine_csv, distance, distance_csv, state)
    view = InterferenceView(interference, interference_csv, progress)

    def draw(*values: str) -> Updates:
        return map_updates(session, maps, MapValues(*values))

    def redraw(*values: str) -> Updates:
        """Draws the maps in the new theme, if they are drawn already."""
        return draw(*values) if session.ready and session.models.has_geometry else no_updates()

    def show(*values: str) -> Iterator[Updates]:
        if not session.ready:
            text = session.problem or "Open models first, under Models."
            yield {state: markup.message(text)}
            return
        if not session.models.has_geometry:
            yield {state: markup.message("Reading every tensor once.", title="Measuring")}
        geometry = session.models.measured_geometry()
        chosen = MapValues(*values)
        parts = list(geometry.groups("part"))
        # Other models may be open than when the lists were filled.
        chosen = chosen._replace(
            layer=chosen.layer if chosen.layer in geometry.layers else WHOLE,
            part=chosen.part if chosen.part in parts else WHOLE,
        )
        yield {
            **map_updates(session, maps, chosen),
            layer: gr.Dropdown([WHOLE, *geometry.layers], value=chosen.layer),
            part: gr.Dropdown([WHOLE, *parts], value=chosen.part),
        }

    def measure(theme: str, request: gr.Request) -> Iterator[Updates]:
        if not session.models.data:
            yield {progress: markup.message("Choose a data folder under Models first.")}
            return
        stale = session.tickets.ticket(f"{request.session_hash}:interference")
        yield {progress: Markup('<span class="quiet">measuring…</span>')}
        for losses, errors in session.interference(stale):
            yield interference_updates(session, view, losses, errors, theme == "dark")

    def show_known(theme: str) -> Updates:
        """Shows the interference map if all of it was measured before; measures nothing."""
        known = session.known_interference() if session.ready else None
        if known is None:
            return no_updates()
        return interference_updates(session, view, *known, theme == "dark")

    listen = {"concurrency_limit": 2, **EVERY_CHANGE}
    tab.select(with_error_dialog(show), controls, [*maps, layer, part], **listen)
    board.opened.change(lambda: [gr.Plot(visible=False), "", ""], None, view, **EVERY_CHANGE)
    for control in (layer, part, rows, kind):
        control.input(with_error_dialog(draw), controls, maps, **listen)
    board.theme.change(with_error_dialog(redraw), controls, maps, **listen)
    go.click(with_error_dialog(measure), board.theme, view, concurrency_limit=2, **QUIET)
    for event in (tab.select, board.theme.change):
        event(with_error_dialog(show_known), board.theme, view, **listen)


def map_updates(session: Session, maps: Maps, values: MapValues) -> Updates:
    """Returns updates of both maps and their CSV."""
    geometry, dark = session.models.measured_geometry(), values.theme == "dark"
    names = list(geometry.vectors)
    matrix = geometry.cosine(
        layer=None if values.layer == WHOLE else values.layer,
        part=None if values.part == WHOLE else values.part,
    )
    table = geometry.distance(relative=values.kind == RELATIVE, by=values.rows)
    return {
        maps.cosine: charts.cosine_figure(names, matrix, dark),
        maps.cosine_csv: copy_csv(names, names, matrix),
        maps.distance: charts.distance_figure(
            table.rows, table.columns, table.values, table.unit, dark
        ),
        maps.distance_csv: copy_csv(table.rows, table.columns, table.values),
        maps.state: Markup(""),
    }


def interference_updates(
    session: Session, view: InterferenceView, losses: Any, errors: Any, dark: bool
) -> Updates:
    """Returns updates of the interference map; rows of NaN are not measured yet."""
    left = int(np.isnan(losses[:, 0]).sum())
    words = f"{left} of {len(losses)} vectors left" if left else "on the whole validation set"
    figure, csv = interference_plot(session, losses, errors, dark)
    return {
        view.plot: gr.Plot(figure, visible=True),
        view.csv: csv,
        view.progress: Markup('<span class="quiet">{}</span>').format(words),
    }


def interference_plot(session: Session, losses: Any, errors: Any, dark: bool) -> tuple[Any, Markup]:
    """Returns the interference map and a button that copies it as CSV with standard errors.

    Args:
        session: with the models that were measured.
        losses: (vectors, datasets), nats per token; NaN if not measured yet.
        errors: their standard errors, of the same shape.
        dark: whether to draw for the dark theme.
    """
    models = session.models
    base = [ends[0].value for ends in session.baselines().values()]
    figure = charts.interference_figure(models.names, list(models.data), losses, base, dark)
    head = [
        "vector",
        *[f"{name} {what}" for name in models.data for what in ("loss", "stderr")],
    ]
    lines = [
        [vector, *[cell for pair in zip(value, error, strict=True) for cell in pair]]
        for vector, value, error in zip(models.names, losses, errors, strict=True)
    ]
    return figure, markup.copier("copy as CSV", markup.csv(head, lines))


def copy_csv(rows: Any, columns: Any, values: Any) -> Markup:
    """Returns a button that copies a table with row and column names as CSV."""
    lines = [
        [row, *[f"{value:.6g}" for value in line]] for row, line in zip(rows, values, strict=True)
    ]
    return markup.copier("copy as CSV", markup.csv(["", *columns], lines))
