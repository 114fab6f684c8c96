"""Export: writes the composition as a model folder, and reports success after reading it back."""

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
    EVERY_CHANGE,
    QUIET,
    Board,
    at_rest,
    current_recipe,
    one_at_a_time,
    start_clocks,
    with_error_dialog,
)
from workbench.session.session import Session

if TYPE_CHECKING:
    from merging.analysis.rounding_cost import RoundingCost
    from merging.recipe import Recipe

EMPTY = "No exports yet."
STORED = "same as the base"
DTYPES = [STORED, "float32", "bfloat16", "float16"]


def build(session: Session, board: Board, tab: gr.Tab, timer: gr.Timer) -> list[Any]:
    """Builds the tab; returns the components that `panel_updates` writes, in its order."""
    with gr.Row(elem_id="export-controls"):
        name = gr.Textbox("composition", label="Folder name", elem_id="export-name", min_width=180)
        dtype = gr.Dropdown(
            DTYPES, value=STORED, label="Dtype", elem_id="export-dtype", min_width=160
        )
        shard = gr.Number(
            5.0, label="Max. file size, GB", minimum=0.001, elem_id="export-shard", min_width=120
        )
    before = gr.HTML(elem_id="export-preflight")
    with gr.Row(elem_id="export-row"):
        go = gr.Button(
            "Export", variant="primary", size="sm", elem_id="export-run", scale=0, min_width=96
        )
        stop = gr.Button("Cancel", size="sm", elem_id="export-cancel", scale=0, min_width=96)
        weigh = gr.Button(
            "Check rounding loss", size="sm", elem_id="rounding-run", scale=0, min_width=160
        )
    panel = gr.HTML(elem_id="export-job")
    cost = gr.HTML(elem_id="rounding")
    cost_of = gr.State(("", ""))

    def preflight(name: str, dtype: str, shard: float | None, digest: str) -> Markup:
        if not session.ready:
            return markup.message(session.problem or "Open models first, under Models.")
        recipe = current_recipe(session, digest)
        return preflight_html(session, name, dtype, recipe, _shard_bytes(shard))

    def run(name: str, dtype: str, shard: float | None, digest: str) -> Markup:
        recipe = current_recipe(session, digest)
        chosen = None if dtype == STORED else dtype
        export.submit(session, recipe, name, chosen, _shard_bytes(shard))
        return job_panel.panel(session, "export", EMPTY)

    def cancel() -> list[Any]:
        for job in session.jobs.active():
            if job.kind == "export":
                session.jobs.cancel(job.id)
        return [job_panel.panel(session, "export", EMPTY), gr.Timer(active=True)]

    def measure(dtype: str, digest: str, request: gr.Request) -> Iterator[list[Any]]:
        recipe = current_recipe(session, digest)
        stale = session.tickets.ticket(f"{request.session_hash}:rounding")
        yield [
            markup.message("Merging once without writing files.", title="Measuring"),
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
            return  # `clear` has already emptied the panel.

    def clear(request: gr.Request) -> Markup:
        session.tickets.ticket(f"{request.session_hash}:rounding")
        return Markup("")

    def changed(of: tuple[str, str], dtype: str, digest: str, request: gr.Request) -> Any:
        if of == (current_recipe(session, digest).digest, dtype):
            # The table was requested after this change, so it is not outdated.
            return gr.skip()
        return clear(request)

    asked = [name, dtype, shard, board.digest]
    tab.select(with_error_dialog(preflight), asked, before, **one_at_a_time("preflight"))
    tab.select(lambda: panel_updates(session), None, [panel], **QUIET)
    gr.on(
        [name.change, dtype.input, board.digest.change],
        with_error_dialog(preflight),
        asked,
        before,
        **one_at_a_time("preflight"),
    )
    pressed = go.click(
        with_error_dialog(run),
        asked,
        panel,
        js=at_rest(asked, board),
        trigger_mode="once",
        **QUIET,
    )
    start_clocks(pressed, [timer])
    weighed = [dtype, board.digest]
    weigh.click(
        with_error_dialog(measure),
        weighed,
        [cost, cost_of],
        js=at_rest(weighed, board),
        concurrency_limit=2,
        **QUIET,
    )
    gr.on(
        [dtype.input, board.digest.change],
        with_error_dialog(changed),
        [cost_of, dtype, board.digest],
        cost,
        **EVERY_CHANGE,
    )
    board.opened.change(with_error_dialog(clear), None, cost, **EVERY_CHANGE)
    stop.click(with_error_dialog(cancel), None, [panel, timer], queue=False, **QUIET)
    return [panel]


def panel_updates(session: Session) -> list[Any]:
    """Returns updates of the components that `build` returned; the page's clock applies them."""
    return [job_panel.panel(session, "export", EMPTY)]


def _shard_bytes(gigabytes: float | None) -> int:
    """Returns the largest size of a weight file in bytes; an empty field is the default."""
    return round(gigabytes * 1e9) if gigabytes else commands.SHARD_BYTES


def preflight_html(
    session: Session,
    name: str,
    dtype: str,
    recipe: Recipe,
    shard_bytes: int = commands.SHARD_BYTES,
) -> Markup:
    """Returns what an export would write and where, any problem with that, and the command."""
    from merging.recipe.formula import formula

    need = export.nbytes(session.models.base, None if dtype == STORED else dtype)
    free = shutil.disk_usage(session.workdir.root).free
    problem = ""
    try:
        folder = session.workdir.export(name)
        if folder.exists():
            path = commands.display_path(folder)
            problem = f"{path} exists already. Choose another name; exports never overwrite."
    except Exception as error:
        return markup.message(str(error), "problem", "This name cannot be used")
    # `nbytes` counts the weights only: 5 % more for headers, tokenizer files and the manifest.
    if need * 1.05 > free:
        problem = f"The export needs {units.size(need)}; only {units.size(free)} are free."
    facts = [
        ("composition", formula(recipe)),
        ("recipe", recipe.digest),
        ("folder", commands.display_path(folder)),
        ("size", f"{units.size(need)} ({units.size(free)} free)"),
    ]
    listed = markup.join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(key, value) for key, value in facts
    )
    chosen = None if dtype == STORED else dtype
    saved = session.workdir.save_recipe(recipe)
    line = markup.command(commands.merge(saved, folder, chosen, shard_bytes))
    return Markup('<dl class="facts-list">{}</dl>{}{}').format(
        listed, markup.message(problem, "problem") if problem else "", line
    )


def rounding_html(cost: RoundingCost) -> Markup:
    """Returns what the dtype loses of the displacement: advice, whole model, five worst layers."""
    losses = cost.table()
    by_name = dict(zip(losses.rows, losses.values.tolist(), strict=True))
    rows = [("whole model", list(cost.total.values()))]
    rows += [(name, by_name[name]) for name, _ in cost.worst(5)]
    shares = [[name, *(f"{units.number(value * 100, 1)} %" for value in row)] for name, row in rows]
    for line, (_, row) in zip(shares, rows, strict=True):
        # The cosine is no share, so it is not shown in percent.
        cosine = losses.columns.index("cosine")
        line[1 + cosine] = units.number(row[cosine], 4)
    table = markup.table(
        ["worst layers", *losses.columns],
        shares,
        numeric=range(1, 1 + len(losses.columns)),
        label="Rounding loss",
    )
    return Markup("{}{}").format(markup.message(cost.advice(), title="Rounding loss"), table)
