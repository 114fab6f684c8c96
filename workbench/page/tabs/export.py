"""Export: the composition as an ordinary model folder; a tick only after every written byte was read again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
from markupsafe import Markup

from evaluation.errors import Stopped
from plumbing import units
from workbench import commands
from workbench.jobs import export
from workbench.page.tabs import job_panel, markup
from workbench.page.tabs.wiring import (
    LATEST,
    QUIET,
    Board,
    current_recipe,
    with_error_dialog,
    writing,
)
from workbench.session.history import History
from workbench.session.session import Session, Standing

if TYPE_CHECKING:
    from merging.analysis.rounding_cost import RoundingCost
    from merging.recipe import Recipe

EMPTY = "Nothing was exported to this workdir yet."
STORED = "as the base stores it"
DTYPES = [STORED, "float32", "bfloat16", "float16"]


def build(session: Session, board: Board, tab: gr.Tab, timer: gr.Timer) -> list[Any]:
    """The tab; returns the components that the page's clock refreshes, in the order of `refreshed`."""
    with gr.Row(elem_id="export-controls"):
        name = gr.Textbox("composition", label="Folder name", elem_id="export-name", min_width=180)
        dtype = gr.Dropdown(
            DTYPES, value=STORED, label="Number format", elem_id="export-dtype", min_width=160
        )
        shard = gr.Number(
            5.0, label="Largest file, GB", minimum=0.001, elem_id="export-shard", min_width=120
        )
    before = gr.HTML(elem_id="export-preflight")
    with gr.Row(elem_id="export-row"):
        go = gr.Button(
            "Export", variant="primary", size="sm", elem_id="export-run", scale=0, min_width=96
        )
        stop = gr.Button("Cancel", size="sm", elem_id="export-cancel", scale=0, min_width=96)
        weigh = gr.Button(
            "What rounding costs", size="sm", elem_id="rounding-run", scale=0, min_width=160
        )
    panel = gr.HTML(elem_id="export-job")
    cost = gr.HTML(elem_id="rounding")
    cost_of = gr.State(("", ""))

    def preflight(name: str, dtype: str, shard: float, history: History[Standing]) -> Markup:
        if not session.ready:
            return markup.message(session.problem or "Open models first, under Models.")
        return preflight_html(session, name, dtype, current_recipe(session, history))

    def run(name: str, dtype: str, shard: float | None, history: History[Standing]) -> list[Any]:
        recipe = current_recipe(session, history)
        export.submit(
            session, recipe, name, None if dtype == STORED else dtype, int((shard or 5.0) * 1e9)
        )
        return [job_panel.panel(session, "export", EMPTY), gr.Timer(active=True)]

    def cancel() -> list[Any]:
        for job in session.jobs.active():
            if job.kind == "export":
                session.jobs.cancel(job.id)
        return [job_panel.panel(session, "export", EMPTY), gr.Timer(active=True)]

    def measure(dtype: str, history: History[Standing], request: gr.Request) -> Iterator[list[Any]]:
        recipe = current_recipe(session, history)
        stale = session.tickets.ticket(f"{request.session_hash}:rounding")
        yield [
            markup.message("Merging once without writing.", title="Measuring"),
            (recipe.digest, dtype),
        ]
        try:
            yield [
                rounding_html(
                    export.rounding(
                        session.models, recipe, None if dtype == STORED else dtype, stale
                    )
                ),
                gr.skip(),
            ]
        except Stopped:
            return  # `clear` has emptied the place

    def clear(request: gr.Request) -> Markup:
        session.tickets.ticket(f"{request.session_hash}:rounding")
        return Markup("")

    def changed(
        of: tuple[str, str], dtype: str, history: History[Standing], request: gr.Request
    ) -> Any:
        if of == (current_recipe(session, history).digest, dtype):
            return gr.skip()  # what is shown was asked for after the change that this is about
        return clear(request)

    asked = [name, dtype, shard, board.history]
    tab.select(with_error_dialog(preflight), asked, before, **writing("preflight"))
    tab.select(lambda: refreshed(session), None, [panel], **QUIET)
    gr.on(
        [name.change, dtype.input, board.digest.change],
        with_error_dialog(preflight),
        asked,
        before,
        **writing("preflight"),
    )
    go.click(with_error_dialog(run), asked, [panel, timer], trigger_mode="once", **QUIET)
    weigh.click(
        with_error_dialog(measure),
        [dtype, board.history],
        [cost, cost_of],
        concurrency_limit=2,
        **QUIET,
    )
    gr.on(
        [dtype.input, board.digest.change],
        with_error_dialog(changed),
        [cost_of, dtype, board.history],
        cost,
        **LATEST,
    )
    board.opened.change(with_error_dialog(clear), None, cost, **QUIET)
    stop.click(with_error_dialog(cancel), None, [panel, timer], queue=False, **QUIET)
    return [panel]


def refreshed(session: Session) -> list[Any]:
    """What the clock writes into the components that `build` returned."""
    return [job_panel.panel(session, "export", EMPTY)]


def preflight_html(session: Session, name: str, dtype: str, recipe: Recipe) -> Markup:
    """Where it goes, how large it is, whether it fits, what stands in the way, and the command."""
    from merging.recipe.formula import formula

    need = export.nbytes(session.models.base, None if dtype == STORED else dtype)
    free = shutil.disk_usage(session.workdir.root).free
    problem = ""
    try:
        folder = session.workdir.export(name)
        if folder.exists():
            problem = f"{commands.display_path(folder)} exists already; choose another name, nothing is overwritten."
    except Exception as error:
        return markup.message(str(error), "problem", "This name cannot be used")
    if need * 1.05 > free:
        problem = f"{units.size(need)} are needed, {units.size(free)} are free."
    facts = [
        ("composition", formula(recipe)),
        ("recipe", recipe.digest),
        ("folder", commands.display_path(folder)),
        ("size", f"{units.size(need)} of {units.size(free)} free"),
    ]
    listed = markup.join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(key, value) for key, value in facts
    )
    line = markup.command(
        commands.merge(session.save_recipe(recipe), folder, None if dtype == STORED else dtype)
    )
    return Markup('<dl class="facts-list">{}</dl>{}{}').format(
        listed, markup.message(problem, "problem") if problem else "", line
    )


def rounding_html(cost: RoundingCost) -> Markup:
    """What the number format loses of the displacement: the advice, the whole model and the rows that lose most."""
    found = cost.table()
    by_name = dict(zip(found.rows, found.values.tolist(), strict=True))
    rows = [("whole model", list(cost.total.values()))]
    rows += [(name, by_name[name]) for name, _ in cost.worst(5)]
    shares = [[name, *(f"{units.number(value * 100, 1)} %" for value in row)] for name, row in rows]
    for line, (_, row) in zip(shares, rows, strict=True):
        line[1 + found.columns.index("cosine")] = units.number(
            row[found.columns.index("cosine")], 4
        )
    table = markup.table(
        ["worst layers", *found.columns],
        shares,
        numeric=range(1, 1 + len(found.columns)),
        label="What rounding costs",
    )
    return Markup("{}{}").format(markup.message(cost.advice(), title="What rounding costs"), table)
