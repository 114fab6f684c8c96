"""Export: the composition as an ordinary model folder; a tick only after every written byte was read again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
from markupsafe import Markup

from evaluation.errors import Stopped
from workbench import commands, words
from workbench.history import History
from workbench.session import Session, Standing
from workbench.tabs import jobs, markup
from workbench.tabs.common import LATEST, QUIET, Board, stands_at, told, writing

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from merging.rounding import RoundingCost

EMPTY = "Nothing was exported to this workdir yet."
STORED = "as the base stores it"
DTYPES = [STORED, "float32", "bfloat16", "float16"]


def build(session: Session, board: Board, tab: gr.Tab, timer: gr.Timer) -> list[Any]:
    """The tab; returns the components that the page's clock refreshes, in the order of `refreshed`."""
    with gr.Row(elem_id="export-controls"):
        name = gr.Textbox("composition", label="Folder name", elem_id="export-name", min_width=180)
        dtype = gr.Dropdown(DTYPES, value=STORED, label="Number format", elem_id="export-dtype", min_width=160)
        shard = gr.Number(5.0, label="Largest file, GB", minimum=0.001, elem_id="export-shard", min_width=120)
    before = gr.HTML(elem_id="export-preflight")
    with gr.Row(elem_id="export-row"):
        go = gr.Button("Export", variant="primary", size="sm", elem_id="export-run", scale=0, min_width=96)
        stop = gr.Button("Cancel", size="sm", elem_id="export-cancel", scale=0, min_width=96)
        weigh = gr.Button("What rounding costs", size="sm", elem_id="rounding-run", scale=0, min_width=160)
    panel = gr.HTML(elem_id="export-job")
    cost = gr.HTML(elem_id="rounding")
    cost_of = gr.State(("", ""))

    def preflight(name: str, dtype: str, shard: float, history: History[Standing]) -> Markup:
        if not session.ready:
            return markup.message(session.problem or "Open models first, under Models.")
        return preflight_html(session, name, dtype, stands_at(session, history))

    def run(name: str, dtype: str, shard: float | None, history: History[Standing]) -> list[Any]:
        recipe = stands_at(session, history)
        session.export(recipe, name, None if dtype == STORED else dtype, int((shard or 5.0) * 1e9))
        return [jobs.panel(session, "export", EMPTY), gr.Timer(active=True)]

    def cancel() -> list[Any]:
        for job in session.jobs.active():
            if job.kind == "export":
                session.jobs.cancel(job.id)
        return [jobs.panel(session, "export", EMPTY), gr.Timer(active=True)]

    def measure(dtype: str, history: History[Standing], request: gr.Request) -> Iterator[list[Any]]:
        recipe = stands_at(session, history)
        stale = session.ticket(f"{request.session_hash}:rounding")
        yield [markup.message("Merging once without writing.", title="Measuring"), (recipe.digest, dtype)]
        try:
            yield [rounding_html(session.rounding(recipe, None if dtype == STORED else dtype, stale)), gr.skip()]
        except Stopped:
            return  # `clear` has emptied the place

    def clear(request: gr.Request) -> Markup:
        session.ticket(f"{request.session_hash}:rounding")
        return Markup("")

    def changed(of: tuple[str, str], dtype: str, history: History[Standing], request: gr.Request) -> Any:
        if of == (stands_at(session, history).digest, dtype):
            return gr.skip()  # what is shown was asked for after the change that this is about
        return clear(request)

    asked = [name, dtype, shard, board.history]
    tab.select(told(preflight), asked, before, **writing("preflight"))
    tab.select(lambda: refreshed(session), None, [panel], **QUIET)
    gr.on([name.change, dtype.input, board.digest.change], told(preflight), asked, before, **writing("preflight"))
    go.click(told(run), asked, [panel, timer], trigger_mode="once", **QUIET)
    weigh.click(told(measure), [dtype, board.history], [cost, cost_of], concurrency_limit=2, **QUIET)
    gr.on([dtype.input, board.digest.change], told(changed), [cost_of, dtype, board.history], cost, **LATEST)
    board.opened.change(told(clear), None, cost, **QUIET)
    stop.click(told(cancel), None, [panel, timer], queue=False, **QUIET)
    return [panel]


def refreshed(session: Session) -> list[Any]:
    """What the clock writes into the components that `build` returned."""
    return [jobs.panel(session, "export", EMPTY)]


def preflight_html(session: Session, name: str, dtype: str, recipe: Recipe) -> Markup:
    """Where it goes, how large it is, whether it fits, what stands in the way, and the command."""
    need = session.export_bytes(None if dtype == STORED else dtype)
    free = shutil.disk_usage(session.workdir).free
    problem = ""
    try:
        folder = session.export_folder(name)
        if folder.exists():
            problem = f"{commands.shown(folder)} exists already; choose another name, nothing is overwritten."
    except Exception as error:
        return markup.message(str(error), "problem", "This name cannot be used")
    if need * 1.05 > free:
        problem = f"{words.size(need)} are needed, {words.size(free)} are free."
    facts = [
        ("composition", recipe.formula()),
        ("recipe", recipe.digest),
        ("folder", commands.shown(folder)),
        ("size", f"{words.size(need)} of {words.size(free)} free"),
    ]
    listed = markup.join(Markup("<dt>{}</dt><dd>{}</dd>").format(key, value) for key, value in facts)
    line = markup.command(commands.merge(session.save_recipe(recipe), folder, None if dtype == STORED else dtype))
    return Markup('<dl class="facts-list">{}</dl>{}{}').format(
        listed, markup.message(problem, "problem") if problem else "", line
    )


def rounding_html(cost: RoundingCost) -> Markup:
    """What the number format loses of the displacement: the advice, the whole model and the rows that lose most."""
    found = cost.table()
    by_name = dict(zip(found.rows, found.values.tolist(), strict=True))
    rows = [("whole model", list(cost.total.values()))]
    rows += [(name, by_name[name]) for name, _ in cost.worst(5)]
    shares = [[name, *(f"{markup.number(value * 100, 1)} %" for value in row)] for name, row in rows]
    for line, (_, row) in zip(shares, rows, strict=True):
        line[1 + found.columns.index("cosine")] = markup.number(row[found.columns.index("cosine")], 4)
    table = markup.table(
        ["worst layers", *found.columns], shares, numeric=range(1, 1 + len(found.columns)), label="What rounding costs"
    )
    return Markup("{}{}").format(markup.message(cost.advice(), title="What rounding costs"), table)
