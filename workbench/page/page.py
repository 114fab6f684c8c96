"""The page: assembles the tabs and wires what they share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr
from markupsafe import Markup

from workbench.commands import display_path
from workbench.errors import is_user_error
from workbench.page.tabs import (
    benchmark,
    compare,
    compose,
    export,
    geometry,
    models,
    preview,
    sliders,
    train,
)
from workbench.page.tabs.wiring import (
    QUIET,
    Board,
    Updates,
    current_recipe,
    no_updates,
    with_error_dialog,
)
from workbench.session.history import History
from workbench.session.session import Session, Stale, Standing


def header_html(session: Session, state: str = "live", digest: str = "", note: str = "") -> Markup:
    """Returns the bar at the top: what is open, and whether the live model matches the sliders.

    Args:
        session: the session.
        state: live, preview or composing; ignored while no models are open.
        digest: of the recipe that is shown.
        note: tooltip of the state.
    """
    labels = {
        "live": "live, exact",
        "preview": "preview",
        "composing": "composing",
        "empty": "nothing open",
        "loading": "loading",
    }
    if session.ready:
        open_now = session.models
        count = len(open_now.names)
        facts = Markup("<span>base <b>{}</b></span><span>{} vector{}</span>").format(
            display_path(open_now.base.path), count, "" if count == 1 else "s"
        )
    else:
        facts = Markup("")
        state = "empty" if session.opened.is_set() else "loading"
    recipe = (
        Markup('<span>recipe <b class="digest">{}</b></span>').format(digest)
        if digest
        else Markup("")
    )
    return Markup(
        '<div class="bar"><h1>DEM workbench</h1>{}{}'
        '<span id="state" class="state {}" role="status" title="{}"><i></i>{}</span></div>'
    ).format(facts, recipe, state, note, labels[state])


class Parts(NamedTuple):
    """The page and the components that settling and arriving write."""

    page: gr.Blocks
    pane: sliders.Pane
    composing: compose.Tab
    header: gr.HTML
    board: Board
    boot: gr.Timer
    """Ticks until the models are open."""


def build(session: Session) -> gr.Blocks:
    """Builds the page of a session."""
    stamps = itertools.count(1)

    def stamp() -> str:
        return str(next(stamps))

    def forget(request: gr.Request) -> None:
        session.tickets.forget(request.session_hash or "page")

    with gr.Blocks(title="DEM workbench", analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_id="top"):
            header = gr.HTML(header_html(session), elem_id="header")
            toggle = gr.Button("dark", size="sm", elem_id="theme-toggle", scale=0, min_width=64)
        theme = gr.Textbox("light", visible="hidden", elem_id="theme", label="theme")
        digest = gr.Textbox("", visible="hidden", elem_id="digest", label="digest")
        opened = gr.Textbox("", visible="hidden", elem_id="opened", label="opened")
        boot = gr.Timer(0.4)
        clock = gr.Timer(1.0, active=False)
        with gr.Row(elem_id="shell"):
            with gr.Column(elem_id="side", scale=0, min_width=320):
                pane = sliders.build(session)
            with gr.Column(elem_id="main", scale=1, min_width=320):
                board = Board(pane.history, digest, theme, opened)
                with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
                    with gr.Tab("Compose", elem_id="tab-compose", render_children=True):
                        composing = compose.build(session)
                    with gr.Tab("Models", elem_id="tab-models", render_children=True) as tab:
                        models.build(session, board, tab, stamp)
                    with gr.Tab("Geometry", elem_id="tab-geometry", render_children=True) as tab:
                        geometry.build(session, board, tab)
                    with gr.Tab("Benchmark", elem_id="tab-benchmark", render_children=True) as tab:
                        bench_parts = benchmark.build(session, board, tab, clock)
                    with gr.Tab("Compare", elem_id="tab-compare", render_children=True) as tab:
                        compare.build(session, board, pane, tab, clock)
                    with gr.Tab("Train", elem_id="tab-train", render_children=True) as tab:
                        train.build(session, board, tab, clock, stamp)
                    with gr.Tab("Export", elem_id="tab-export", render_children=True) as tab:
                        export_parts = export.build(session, board, tab, clock)
        parts = Parts(page, pane, composing, header, board, boot)
        _wire_settling(session, parts)
        preview.wire(session, pane, composing.chart, header, header_html)
        _wire_arrival(session, parts)
        _wire_clock(session, page, clock, bench_parts, export_parts)
        toggle.click(None, None, theme, js="() => window.dem.toggleTheme()", **QUIET)
        page.load(None, None, theme, js="() => window.dem.theme()", **QUIET)
        page.unload(forget)
    return page


def _wire_settling(session: Session, parts: Parts) -> None:
    """Wires what follows when the controls are at rest: the page moves at once, then measures."""
    pane, composing, header, digest = (
        parts.pane,
        parts.composing,
        parts.header,
        parts.board.digest,
    )

    def move(request: gr.Request, number: int, history: History[Standing], *values: Any) -> Updates:
        if not session.ready or not session.tickets.newest(request.session_hash or "page", number):
            return no_updates()
        history, error = sliders.settle(session, history, values)
        now = current_recipe(session, history).digest
        return {
            **sliders.standing_updates(session, pane, history, error),
            digest: now,
            header: header_html(session, "composing", now),
        }

    def measure(prompt: str, history: History[Standing], request: gr.Request) -> Iterator[Updates]:
        if not session.ready:
            return
        stale = session.tickets.ticket(request.session_hash or "page")
        try:
            yield from show_losses(history, prompt, stale)
        except Exception as error:
            if stale():
                return
            if not history.past or not is_user_error(error):
                raise
            # Some recipes turn out to be impossible only when composed: return to the one before.
            kept = history.dropped()
            session.settle(kept.present or session.standing)
            yield sliders.standing_updates(session, pane, kept, error)
            yield from show_losses(kept, prompt, stale)

    def show_losses(history: History[Standing], prompt: str, stale: Stale) -> Iterator[Updates]:
        recipe, shown_state = current_recipe(session, history), "composing"
        # The answers to two moves may arrive in the wrong order, so this one also writes the
        # formula and digest that its losses belong to.
        yield {
            header: header_html(session, shown_state, recipe.digest),
            pane.formula: sliders.current_formula(session, history),
            digest: recipe.digest,
        }
        for chart, answer, state in compose.measure_and_answer(session, recipe, prompt, stale):
            if stale():
                return
            top = gr.skip() if state == shown_state else header_html(session, state, recipe.digest)
            shown_state = state
            yield {header: top, composing.chart: chart, composing.answer: answer}

    # A newer press must reach the server while an older one is still at work, to make it stop.
    wire = {"trigger_mode": "multiple", **QUIET}
    moves = [*pane.standing_outputs, digest, header]
    measures = [header, composing.chart, composing.answer, *pane.standing_outputs, digest]
    asked = [pane.number, pane.history, *pane.inputs]
    pressed = pane.settle.click(
        with_error_dialog(move), asked, moves, queue=False, js=preview.numbered(asked), **wire
    )
    pressed.then(
        with_error_dialog(measure),
        [composing.prompt, pane.history],
        measures,
        concurrency_limit=8,
        **wire,
    )


def _wire_arrival(session: Session, parts: Parts) -> None:
    """Fills the page and settles it once, when it is loaded and when other models are opened."""
    pane, composing, header, boot = parts.pane, parts.composing, parts.header, parts.boot

    def arrive() -> Updates:
        if not session.opened.is_set():
            return no_updates()
        if not session.ready:
            return {
                header: header_html(session),
                composing.chart: models.models_html(session),
                boot: gr.Timer(active=False),
            }
        prompts = [
            (f"{name}: {text if len(text) < 70 else text[:69] + '…'}", text)
            for name, data in session.models.data.items()
            for text in data.prompts[:3]
        ]
        first = prompts[0][1] if prompts else None
        return {
            **sliders.arrival_updates(session, pane),
            header: header_html(session, "composing"),
            composing.examples: gr.Dropdown(prompts, value=first, visible=bool(prompts)),
            composing.other: gr.Dropdown(["base", *session.models.names], value="base"),
            boot: gr.Timer(active=False),
        }

    targets = [
        *pane.sliders,
        *pane.alone,
        pane.best,
        pane.history,
        *pane.picker.outputs,
        pane.column,
        header,
        composing.examples,
        composing.other,
        composing.chart,
        boot,
    ]
    for event in (parts.page.load, boot.tick, parts.board.opened.change):
        arrived = event(with_error_dialog(arrive), None, targets, **QUIET)
        arrived.then(None, None, None, js="() => window.dem.arrived()", **QUIET)


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
