"""The page: assembles the tabs and wires what they share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

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
from workbench.page.tabs.wiring import POOL, QUIET, Board, current_recipe, with_error_dialog
from workbench.session.history import History
from workbench.session.session import Session, Stale, Standing


def header_html(session: Session, state: str = "live", digest: str = "", note: str = "") -> Markup:
    """The bar at the top: what is open, and whether the model in memory is what the sliders say."""
    words = {
        "live": "live, exact",
        "preview": "preview",
        "composing": "composing",
        "empty": "nothing open",
        "loading": "loading",
    }
    if session.ready:
        open_now = session.models
        facts = Markup("<span>base <b>{}</b></span><span>{} vectors</span>").format(
            display_path(open_now.base.path), len(open_now.names)
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
        '<div class="bar"><h1>DEM workbench</h1>{}{}<span id="state" class="state {}" role="status" title="{}"><i></i>{}</span></div>'
    ).format(facts, recipe, state, note, words[state])


def build(session: Session) -> gr.Blocks:
    """The page of a session."""
    stamps = itertools.count(1)

    def stamp() -> str:
        return str(next(stamps))

    def gone(request: gr.Request) -> None:
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
        _settling(session, pane, composing, header, digest)
        preview.wire(session, pane, composing.chart, header, header_html)
        _arriving(session, page, pane, composing, header, opened, boot, stamp)
        _clock(session, page, clock, bench_parts, export_parts)
        toggle.click(None, None, theme, js="() => window.dem.toggleTheme()", **QUIET)
        page.load(None, None, theme, js="() => window.dem.theme()", **QUIET)
        page.unload(gone)
    return page


def _settling(
    session: Session,
    pane: sliders.Pane,
    composing: compose.Tab,
    header: gr.HTML,
    digest: gr.Textbox,
) -> None:
    """What happens when the sliders and fields came to rest: the page moves there at once, then measures."""

    def moved(
        request: gr.Request, number: int, history: History[Standing], *wish: Any
    ) -> list[Any]:
        if not session.ready or not session.tickets.newest(request.session_hash or "page", number):
            return [gr.skip()] * len(moves)
        settled = sliders.settled(session, history, wish)
        now = current_recipe(session, settled[0]).digest
        return [*settled, now, header_html(session, "composing", now)]

    def measured(
        prompt: str, history: History[Standing], request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        if not session.ready:
            return
        stale = session.tickets.ticket(request.session_hash or "page")
        try:
            yield from measuring(history, prompt, stale)
        except Exception as error:
            if stale():
                return
            if not history.past or not is_user_error(error):
                raise
            # only composing it could tell that it cannot be: back to what the page stood at before
            kept = history.dropped()
            session.settle(kept.present or session.standing)
            yield dict(zip(pane.stood, sliders.standing_shown(session, kept, error), strict=True))
            yield from measuring(kept, prompt, stale)

    def measuring(
        history: History[Standing], prompt: str, stale: Stale
    ) -> Iterator[dict[Any, Any]]:
        recipe, shown_state = current_recipe(session, history), "composing"
        # Of two moves, the answer to the first may come last: what is measured says what it is of.
        line = sliders.formula_shown(session, history)
        yield {
            header: header_html(session, shown_state, recipe.digest),
            pane.formula: line,
            digest: recipe.digest,
        }
        for chart, answer, state in compose.settled(session, recipe, prompt, stale):
            if stale():
                return
            top = gr.skip() if state == shown_state else header_html(session, state, recipe.digest)
            shown_state = state
            yield {header: top, composing.chart: chart, composing.answer: answer}

    # A newer press must reach the server while an older one works: it is what makes the older one stop.
    wire = {"trigger_mode": "multiple", **QUIET}
    moves = [*pane.stood, digest, header]
    measures = [header, composing.chart, composing.answer, *pane.stood, digest]
    asked = [pane.number, pane.history, *pane.wish]
    pressed = pane.settle.click(
        with_error_dialog(moved), asked, moves, queue=False, js=preview.numbered(asked), **wire
    )
    pressed.then(
        with_error_dialog(measured),
        [composing.prompt, pane.history],
        measures,
        concurrency_limit=8,
        **wire,
    )


def _arriving(
    session: Session,
    page: gr.Blocks,
    pane: sliders.Pane,
    composing: compose.Tab,
    header: gr.HTML,
    opened: gr.Textbox,
    boot: gr.Timer,
    stamp: Callable[[], str],
) -> None:
    """A page opens, or other models were opened: fill the sliders and settle once."""
    count = 2 * POOL + 3 + len(pane.picker.shown)

    def arrive() -> list[Any]:
        if not session.opened.is_set():
            return [gr.skip()] * (count + 5)
        if not session.ready:
            chart = models.models_html(session)
            return [
                *[gr.skip()] * count,
                header_html(session),
                gr.skip(),
                gr.skip(),
                chart,
                gr.Timer(active=False),
            ]
        prompts = [
            (f"{name}: {text if len(text) < 70 else text[:69] + '…'}", text)
            for name, data in session.models.data.items()
            for text in data.prompts[:3]
        ]
        first = prompts[0][1] if prompts else None
        return [
            *sliders.arrival(session),
            header_html(session, "composing"),
            gr.Dropdown(prompts, value=first, visible=bool(prompts)),
            gr.Dropdown(["base", *session.models.names], value="base"),
            gr.skip(),
            gr.Timer(active=False),
        ]

    targets = [
        *pane.sliders,
        *pane.alone,
        pane.best,
        pane.history,
        *pane.picker.shown,
        pane.column,
        header,
        composing.examples,
        composing.other,
        composing.chart,
        boot,
    ]
    after = "() => window.dem.arrived()"
    page.load(with_error_dialog(arrive), None, targets, **QUIET).then(
        None, None, None, js=after, **QUIET
    )
    boot.tick(with_error_dialog(arrive), None, targets, **QUIET).then(
        None, None, None, js=after, **QUIET
    )
    opened.change(with_error_dialog(arrive), None, targets, **QUIET).then(
        None, None, None, js=after, **QUIET
    )


def _clock(
    session: Session, page: gr.Blocks, clock: gr.Timer, bench: list[Any], exports: list[Any]
) -> None:
    """Once a second while a job works, and never otherwise: every page shows the same row of the job table."""
    before = gr.State(())

    def tick(before: tuple[int, ...]) -> list[Any]:
        now = tuple(job.id for job in session.jobs.active())
        for id in set(before) - set(now):
            job = session.jobs.get(id)
            if job.state == "done":
                gr.Info(f"{job.kind.capitalize()} {job.id} is done.", title="Done")
            elif job.state == "failed":
                gr.Warning(
                    f"{job.kind.capitalize()} {job.id} failed; its panel says why.", title="Failed"
                )
        return [
            *benchmark.refreshed(session),
            *export.refreshed(session),
            gr.Timer(active=bool(now)),
            now,
        ]

    targets = [*bench, *exports, clock, before]
    clock.tick(with_error_dialog(tick), before, targets, **QUIET)
    page.load(with_error_dialog(tick), before, targets, **QUIET)
