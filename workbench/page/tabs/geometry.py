"""Geometry: how the vectors stand to each other, how far they went per layer, and how they interfere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from markupsafe import Markup

from workbench.page.tabs import markup
from workbench.page.tabs.wiring import QUIET, Board, with_error_dialog
from workbench.plots import charts
from workbench.session.session import Session

WHOLE = "whole model"
RAW, RELATIVE = "‖Δ‖", "‖Δ‖ / ‖Θ‖"


def build(session: Session, board: Board, tab: gr.Tab) -> None:
    """The tab. Maps are drawn when it is shown or a control changes, never during a drag: they do not depend on ω."""
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
            "<h2>Interference, measured</h2><p class='lead'>Loss of each dataset under one vector alone at ω = 1, and "
            "its change from the base. Vectors at right angles can still interfere.</p>"
        )
    )
    with gr.Row():
        go = gr.Button("Measure", size="sm", elem_id="interference-go", min_width=96, scale=0)
        told_now = gr.HTML(elem_id="interference-state")
    interference = gr.Plot(show_label=False, container=False, elem_id="interference", visible=False)
    interference_csv = gr.HTML()
    controls = [layer, part, rows, kind, board.theme]
    maps = [cosine, cosine_csv, distance, distance_csv, state]

    def draw(layer: str, part: str, rows: str, kind: str, theme: str) -> list[Any]:
        return drawn(session, layer, part, rows, kind, theme == "dark")

    def show(layer: str, part: str, rows: str, kind: str, theme: str) -> Iterator[list[Any]]:
        if not session.ready:
            text = session.problem or "Open models first, under Models."
            yield [*[gr.skip()] * 4, markup.message(text), gr.skip(), gr.skip()]
            return
        if not session.has_geometry:
            yield [
                *[gr.skip()] * 4,
                markup.message("Reading every tensor once.", title="Measuring"),
                gr.skip(),
                gr.skip(),
            ]
        geometry = session.geometry()
        layer = layer if layer in geometry.layers else WHOLE
        parts = list(geometry.groups("part"))
        part = part if part in parts else WHOLE
        yield [
            *drawn(session, layer, part, rows, kind, theme == "dark"),
            gr.Dropdown([WHOLE, *geometry.layers], value=layer),
            gr.Dropdown([WHOLE, *parts], value=part),
        ]

    def measure(theme: str, request: gr.Request) -> Iterator[list[Any]]:
        models = session.models
        if not models.data:
            yield [gr.skip(), gr.skip(), markup.message("Choose a data folder under Models first.")]
            return
        stale = session.tickets.ticket(f"{request.session_hash}:interference")
        yield [gr.skip(), gr.skip(), Markup('<span class="quiet">measuring…</span>')]
        for values, errors in session.interference(stale):
            left = int(np.isnan(values[:, 0]).sum())
            words = (
                f"{left} of {len(values)} vectors left" if left else "on the whole validation set"
            )
            figure, text = interference_drawn(session, values, errors, theme == "dark")
            yield [
                gr.Plot(figure, visible=True),
                text,
                Markup('<span class="quiet">{}</span>').format(words),
            ]

    listen = {"concurrency_limit": 2, **QUIET}
    targets = [*maps, layer, part]
    tab.select(with_error_dialog(show), controls, targets, **listen)
    board.opened.change(
        lambda: [gr.Plot(visible=False), "", ""],
        None,
        [interference, interference_csv, told_now],
        **QUIET,
    )
    for control in (layer, part, rows, kind):
        control.input(with_error_dialog(draw), controls, maps, trigger_mode="always_last", **listen)
    board.theme.change(with_error_dialog(redrawn(session)), controls, maps, **listen)
    go.click(
        with_error_dialog(measure),
        board.theme,
        [interference, interference_csv, told_now],
        **listen,
    )
    tab.select(
        with_error_dialog(known_interference(session)),
        board.theme,
        [interference, interference_csv, told_now],
        **listen,
    )
    board.theme.change(
        with_error_dialog(known_interference(session)),
        board.theme,
        [interference, interference_csv, told_now],
        **listen,
    )


def redrawn(session: Session) -> Any:
    """The maps in the other theme, if they were drawn at all."""

    def work(layer: str, part: str, rows: str, kind: str, theme: str) -> list[Any]:
        if not session.ready or not session.has_geometry:
            return [gr.skip()] * 5
        return drawn(session, layer, part, rows, kind, theme == "dark")

    return work


def known_interference(session: Session) -> Any:
    """The interference table where all of it was measured before; nothing is measured for it."""

    def work(theme: str) -> list[Any]:
        found = session.known_interference() if session.ready else None
        if found is None:
            return [gr.skip()] * 3
        figure, text = interference_drawn(session, *found, theme == "dark")
        return [
            gr.Plot(figure, visible=True),
            text,
            Markup('<span class="quiet">on the whole validation set</span>'),
        ]

    return work


def drawn(session: Session, layer: str, part: str, rows: str, kind: str, dark: bool) -> list[Any]:
    """Both maps with their CSV."""
    geometry = session.geometry()
    names = list(geometry.vectors)
    matrix = geometry.cosine(
        layer=None if layer == WHOLE else layer, part=None if part == WHOLE else part
    )
    table = geometry.distance(relative=kind == RELATIVE, by=rows)
    return [
        charts.cosine_figure(names, matrix, dark),
        copy_csv(names, names, matrix),
        charts.distance_figure(table.rows, table.columns, table.values, table.unit, dark),
        copy_csv(table.rows, table.columns, table.values),
        Markup(""),
    ]


def interference_drawn(
    session: Session, values: Any, errors: Any, dark: bool
) -> tuple[Any, Markup]:
    """The interference map with its CSV, standard errors included."""
    models = session.models
    base = [ends[0].value for ends in session.baselines().values()]
    figure = charts.interference_figure(models.names, list(models.data), values, base, dark)
    head = [
        "vector alone",
        *[f"{name} {what}" for name in models.data for what in ("loss", "stderr")],
    ]
    lines = [
        [vector, *[cell for pair in zip(value, error, strict=True) for cell in pair]]
        for vector, value, error in zip(models.names, values, errors, strict=True)
    ]
    return figure, markup.copier("copy as CSV", markup.csv(head, lines))


def copy_csv(rows: Any, columns: Any, values: Any) -> Markup:
    """A button that copies a table."""
    lines = [
        [row, *[f"{value:.6g}" for value in line]] for row, line in zip(rows, values, strict=True)
    ]
    return markup.copier("copy as CSV", markup.csv(["", *columns], lines))
