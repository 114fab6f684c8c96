"""Benchmark: scores a model on a suite or on tasks, as a job. Scores have errors and a recipe."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import gradio as gr
from markupsafe import Markup

from plumbing import units
from workbench import commands
from workbench.errors import SessionError
from workbench.jobs import benchmark
from workbench.page.tabs import job_panel, markup
from workbench.page.tabs.wiring import (
    QUIET,
    Board,
    at_rest,
    current_recipe,
    one_at_a_time,
    start_clocks,
    with_error_dialog,
)
from workbench.session.runs import read_runs
from workbench.session.session import Session

EMPTY = "No benchmarks yet. Choose a suite and press Run. You can keep using the sliders meanwhile."
THIS = "this composition"


def build(session: Session, board: Board, tab: gr.Tab, timer: gr.Timer) -> list[Any]:
    """Builds the tab; returns the components that `panel_updates` writes, in its order."""
    with gr.Row(elem_id="bench-controls"):
        suite = gr.Dropdown([], label="Suite", elem_id="suite", min_width=140)
        tasks = gr.Textbox(
            label="or task names", placeholder="arc_easy, piqa", elem_id="tasks", min_width=160
        )
        limit = gr.Textbox(
            label="Examples per task", placeholder="all", elem_id="limit", min_width=120
        )
        which = gr.Dropdown(
            [THIS, "base"], value=THIS, label="Model", elem_id="bench-model", min_width=160
        )
    with gr.Row(elem_id="bench-row"):
        go = gr.Button(
            "Run", variant="primary", size="sm", elem_id="bench-run", scale=0, min_width=96
        )
        stop = gr.Button("Cancel", size="sm", elem_id="bench-cancel", scale=0, min_width=96)
        line = gr.HTML(elem_id="bench-line")
    panel = gr.HTML(elem_id="bench-job")
    runs = gr.HTML(elem_id="runs")

    def recipe(which: str, digest: str) -> Any:
        if which == THIS:
            return current_recipe(session, digest)
        return session.recipe(session.models.preset("base" if which == "base" else f"only:{which}"))

    def command_of(suite: str, tasks: str, limit: str, which: str, digest: str) -> Markup:
        if not session.ready or not (suite or names(tasks)):
            return Markup("")
        try:
            count = whole(limit)
        # In place of the command and not as a dialog, which would open at every key press.
        except SessionError as error:
            return markup.message(str(error), "problem")
        file = session.workdir.save_recipe(recipe(which, digest))
        return markup.command(
            commands.bench(file, suite, names(tasks), count, session.workdir.root)
        )

    def run(suite: str, tasks: str, limit: str, which: str, digest: str) -> Markup:
        benchmark.submit(session, recipe(which, digest), suite, names(tasks), whole(limit))
        return job_panel.panel(session, "benchmark", EMPTY)

    def cancel() -> list[Any]:
        for job in session.jobs.active():
            if job.kind == "benchmark":
                session.jobs.cancel(job.id)
        return [job_panel.panel(session, "benchmark", EMPTY), gr.Timer(active=True)]

    def arrive() -> list[Any]:
        models = [THIS, "base", *(session.models.names if session.ready else [])]
        return [
            gr.Dropdown(suites(), value="demo" if "demo" in suites() else None),
            gr.Dropdown(models, value=THIS),
        ]

    asked = [suite, tasks, limit, which, board.digest]
    tab.select(arrive, None, [suite, which], **QUIET).then(
        with_error_dialog(command_of), asked, line, **one_at_a_time("bench-line")
    )
    tab.select(lambda: panel_updates(session), None, [panel, runs], **QUIET)
    gr.on(
        [suite.input, tasks.change, limit.change, which.input, board.digest.change],
        with_error_dialog(command_of),
        asked,
        line,
        **one_at_a_time("bench-line"),
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
    stop.click(with_error_dialog(cancel), None, [panel, timer], queue=False, **QUIET)
    return [panel, runs]


def panel_updates(session: Session) -> list[Any]:
    """Returns updates of the components that `build` returns; the page's clock applies them."""
    return [job_panel.panel(session, "benchmark", EMPTY), runs_html(session)]


def suites() -> list[str]:
    """Returns the names of all suites, sorted."""
    from evaluation import harness

    return sorted(harness.suites())


def names(text: str | None) -> list[str]:
    """Returns the task names in a text, which are separated by commas or spaces."""
    return [name for name in (text or "").replace(",", " ").split() if name]


def whole(limit: str | None) -> int | None:
    """Returns the limit that a text field holds; None, no limit, if it is empty or "all".

    Raises:
        SessionError: if it is not a whole number of at least 1.
    """
    text = (limit or "").strip()
    if text in ("", "all"):
        return None
    if not text.isdecimal() or int(text) < 1:
        raise SessionError(
            f"the limit is {text!r}; give a whole number of examples (1 or more), "
            "or leave the field empty for all."
        )
    return int(text)


def runs_html(session: Session) -> Markup:
    """Returns the table of runs, newest first, with a button that copies it as CSV."""
    runs = read_runs(session.workdir)
    if not runs:
        return Markup("")
    head = ["task", "metric", "score", "stderr", "n", "composition", "recipe", "limit", "when"]
    rows: list[list[object]] = []
    lines: list[list[object]] = []
    for run in runs:
        when = datetime.fromisoformat(run.created).astimezone().strftime("%Y-%m-%d %H:%M")
        limit = run.limit if run.limit is not None else "all"
        formula = Markup('<span class="clip" title="{}">{}</span>').format(run.formula, run.formula)
        recipe = Markup("<code>{}</code>").format(run.recipe_digest)
        rows.append(
            [
                run.task,
                run.metric,
                units.number(run.value),
                f"±{units.number(run.stderr)}",
                run.n,
                formula,
                recipe,
                limit,
                when,
            ]
        )
        lines.append(
            [
                run.task,
                run.metric,
                run.value,
                run.stderr,
                run.n,
                run.formula,
                run.recipe_digest,
                limit,
                when,
            ]
        )
    table = markup.table(head, rows, numeric=[2, 3, 4, 7], label="Runs")
    return Markup("<header class='row-head'><h2>Runs</h2>{}</header>{}").format(
        markup.copier("copy as CSV", markup.csv(head, lines)), table
    )
