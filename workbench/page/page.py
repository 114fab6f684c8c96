"""The page: assembles the tabs and wires what they share."""

from __future__ import annotations

import itertools
from typing import Any

import gradio as gr

from workbench.page.tabs import (
    benchmark,
    compare,
    component,
    compose,
    export,
    geometry,
    models,
    train,
)
from workbench.page.tabs.data import data_tab
from workbench.page.tabs.wiring import EVERY_CHANGE, QUIET, Board, with_error_dialog
from workbench.session.session import Session


def build(session: Session) -> gr.Blocks:
    """Builds the page of a session."""
    stamps = itertools.count(1)

    def stamp() -> str:
        return str(next(stamps))

    def forget(request: gr.Request) -> None:
        session.tickets.forget(request.session_hash or "page")

    with gr.Blocks(title="DEM workbench", analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_id="top"):
            component.live("bar", elem_id="header")
            toggle = gr.Button("dark", size="sm", elem_id="theme-toggle", scale=0, min_width=64)
        theme = gr.Textbox("light", visible="hidden", elem_id="theme", label="theme")
        digest = component.digest(elem_id="digest")
        opened = gr.Textbox("", visible="hidden", elem_id="opened", label="opened")
        boot = gr.Timer(0.4)
        clock = gr.Timer(1.0, active=False)
        board = Board(digest, theme, opened)
        # This page has opened other models: its own line asks for them at once. Before all other
        # listeners, which would ask for the composition of the models before.
        opened.change(None, None, None, js="() => { window.dem.follow(); }", **EVERY_CHANGE)
        with gr.Row(elem_id="shell"):
            with gr.Column(elem_id="side", scale=0, min_width=320):
                component.live("controls", elem_id="controls")
            with (
                gr.Column(elem_id="main", scale=1, min_width=320),
                gr.Tabs(elem_id="tabs", overflow_behavior="wrap"),
            ):
                with gr.Tab("Compose", elem_id="tab-compose", render_children=True):
                    compose.build(session, board, boot)
                with gr.Tab("Search", elem_id="tab-search", render_children=True):
                    component.live("search", elem_id="search")
                with gr.Tab("Models", elem_id="tab-models", render_children=True) as tab:
                    models.build(session, board, tab, stamp)
                with gr.Tab("Geometry", elem_id="tab-geometry", render_children=True) as tab:
                    geometry.build(session, board, tab)
                with gr.Tab("Benchmark", elem_id="tab-benchmark", render_children=True) as tab:
                    bench_parts = benchmark.build(session, board, tab, clock)
                with gr.Tab("Compare", elem_id="tab-compare", render_children=True) as tab:
                    compare.build(session, board, tab, clock)
                with gr.Tab("Train", elem_id="tab-train", render_children=True) as tab:
                    train.build(session, board, tab, clock, stamp)
                with gr.Tab("Data", elem_id="tab-data", render_children=True) as tab:
                    data_tab.build(session, board, tab, clock)
                with gr.Tab("Export", elem_id="tab-export", render_children=True) as tab:
                    export_parts = export.build(session, board, tab, clock)
        _wire_clock(session, page, clock, bench_parts, export_parts)
        toggle.click(None, None, theme, js="() => window.dem.toggleTheme()", **QUIET)
        page.load(None, None, theme, js="() => window.dem.theme()", **QUIET)
        page.unload(forget)
    return page


def _wire_clock(
    session: Session, page: gr.Blocks, clock: gr.Timer, bench: list[Any], exports: list[Any]
) -> None:
    """Refreshes the job panels of every page once a second, but only while a job works."""
    before = gr.State(())

    def tick(before: tuple[int, ...]) -> list[Any]:
        now = tuple(job.id for job in session.jobs.active())
        # A page compares with its own last tick, so each open page announces the end of a job.
        for id in set(before) - set(now):
            job = session.jobs.get(id)
            if job.state == "done":
                gr.Info(f"{job.kind.capitalize()} {job.id} is done.", title="Done")
            elif job.state == "failed":
                gr.Warning(
                    f"{job.kind.capitalize()} {job.id} failed. Its panel shows why.", title="Failed"
                )
        return [
            *benchmark.panel_updates(session),
            *export.panel_updates(session),
            gr.Timer(active=bool(now)),
            now,
        ]

    targets = [*bench, *exports, clock, before]
    clock.tick(with_error_dialog(tick), before, targets, **QUIET)
    page.load(with_error_dialog(tick), before, targets, **QUIET)
