"""Compare: all checkpoints and compositions in one table, the cost of DEM and of mixing."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr
from markupsafe import Markup

from workbench import commands
from workbench.comparison.added_models import add, read_added, remove
from workbench.comparison.collect import compare
from workbench.comparison.costs import cost_table
from workbench.comparison.table import Comparison
from workbench.errors import SessionError
from workbench.jobs import measure_missing
from workbench.jobs.benchmark import BenchmarkRequest
from workbench.page.tabs import compare_html, hidden_states, job_panel, markup
from workbench.page.tabs.benchmark import names, suites, whole
from workbench.page.tabs.wiring import (
    EVERY_CHANGE,
    QUIET,
    Board,
    Updates,
    at_rest,
    clock_options,
    current_recipe,
    one_at_a_time,
    start_clocks,
    with_error_dialog,
)
from workbench.session.session import Session

KIND = "compare"
NOTHING = "Open models first, under Models."
ABOUT = (
    "The open models, all measured compositions, exports, and models that you add, "
    "for example one trained on mixed data."
)


class CompareView(NamedTuple):
    """The components that show the comparison."""

    table: gr.HTML
    missing: gr.HTML
    line: gr.HTML
    cost: gr.HTML
    panel: gr.HTML
    clock: gr.Timer


class Controls(NamedTuple):
    """The values of the controls."""

    suite: str
    tasks: str
    limit: str
    mixed: list[str]
    """The added models that are ticked as trained on mixed data."""
    known: tuple[str, ...]
    """All added models that the page has shown."""
    digest: str


def build(session: Session, board: Board, tab: gr.Tab, timer: gr.Timer) -> None:
    """Builds the tab."""
    gr.HTML(Markup("<p class='lead'>{}</p>").format(ABOUT))
    table = gr.HTML(elem_id="compare-table")
    with gr.Row(elem_id="compare-add-row"):
        folder = gr.Dropdown(
            [],
            value=None,
            label="Add a model to the table",
            elem_id="compare-folder",
            min_width=240,
        )
        plus = gr.Button("Add", size="sm", elem_id="compare-add", scale=0, min_width=96)
    with gr.Row(elem_id="compare-controls"):
        suite = gr.Dropdown(
            [("none", "")],
            value="",
            label="Benchmark suite",
            elem_id="compare-suite",
            min_width=140,
        )
        tasks = gr.Textbox(
            label="or task names",
            placeholder="arc_easy, piqa",
            elem_id="compare-tasks",
            min_width=160,
        )
        limit = gr.Textbox(
            label="Examples per task", placeholder="all", elem_id="compare-limit", min_width=120
        )
    missing = gr.HTML(elem_id="compare-missing")
    with gr.Row(elem_id="compare-row"):
        go = gr.Button(
            "Measure missing values",
            variant="primary",
            size="sm",
            elem_id="compare-go",
            scale=0,
            min_width=96,
        )
        stop = gr.Button("Cancel", size="sm", elem_id="compare-cancel", scale=0, min_width=96)
        line = gr.HTML(elem_id="compare-line")
    panel = gr.HTML(elem_id="compare-job")
    cost = gr.HTML(elem_id="compare-cost")
    mixed = gr.CheckboxGroup(
        [],
        label="Models trained on mixed data (data-mixing baselines)",
        visible=False,
        elem_id="compare-mixed",
    )
    value = gr.Textbox("", visible="hidden", label="row", elem_id="compare-value")
    minus = gr.Button("remove", visible="hidden", elem_id="compare-remove")
    clock = gr.Timer(1.0, active=False)
    previous, known = gr.State(()), gr.State(())
    hidden_states.build(session, board, tab, timer)

    asked = [suite, tasks, limit, mixed, known, board.digest]
    lists = [folder, mixed, known]
    view = CompareView(table, missing, line, cost, panel, clock)

    def show(*values: Any) -> Updates:
        return view_updates(session, view, Controls(*values))

    def refresh_lists(mixed: list[str], known: tuple[str, ...]) -> list[Any]:
        return list_updates(session, mixed, known)

    def tick(before: Any, *values: Any) -> Updates:
        """Updates the whole tab when another measurement is finished, else only the job panel."""
        job = next(iter(session.jobs.recent(KIND, limit=1)), None)
        now = (job.id, job.state, int(job.done)) if job else ()
        if now == before:
            return {panel: job_panel.newest(session, KIND)}
        return {**show(*values), previous: now}

    def measure(*values: Any) -> Markup:
        controls = Controls(*values)
        comparison = _comparison(session, controls.digest)
        measure_missing.submit(
            session, comparison, _benchmarks(controls), _command(session, controls)
        )
        return job_panel.newest(session, KIND)

    def cancel() -> list[Any]:
        for job in session.jobs.active():
            if job.kind == KIND:
                session.jobs.cancel(job.id)
        return [job_panel.newest(session, KIND), gr.Timer(active=True)]

    def add_model(folder: str | None) -> None:
        if not folder:
            raise SessionError("choose a model from the list first.")
        add(session, folder)

    tab.select(
        lambda: gr.Dropdown([("none", ""), *((name, name) for name in suites())]),
        None,
        suite,
        **QUIET,
    )
    listing = {"inputs": [mixed, known], "outputs": lists, **EVERY_CHANGE}
    listed = [
        tab.select(with_error_dialog(refresh_lists), **listing),
        board.opened.change(with_error_dialog(refresh_lists), **listing),
    ]
    listed += [
        plus.click(
            with_error_dialog(add_model), folder, None, trigger_mode="once", **QUIET
        ).success(with_error_dialog(refresh_lists), **listing),
        minus.click(
            with_error_dialog(lambda value: remove(session, value)),
            value,
            None,
            js="() => [window.dem.value]",
            **QUIET,
        ).success(with_error_dialog(refresh_lists), **listing),
    ]
    wire = one_at_a_time("compared")
    for event in listed:
        event.then(with_error_dialog(show), asked, view, **wire)
    typed = [tasks.submit, tasks.blur, limit.submit, limit.blur]
    changes = [suite.input, *typed, mixed.input, board.digest.change]
    gr.on(changes, with_error_dialog(show), asked, view, **wire)
    clock.tick(
        with_error_dialog(tick), [previous, *asked], [*view, previous], **clock_options("compared")
    )
    pressed = go.click(
        with_error_dialog(measure),
        asked,
        panel,
        js=at_rest(asked, board),
        trigger_mode="once",
        **QUIET,
    )
    start_clocks(pressed, [clock, timer])
    stop.click(with_error_dialog(cancel), None, [panel, clock], queue=False, **QUIET)


def view_updates(session: Session, view: CompareView, controls: Controls) -> Updates:
    """Returns updates of the whole view."""
    active = any(job.kind == KIND for job in session.jobs.active())
    job = {view.panel: job_panel.newest(session, KIND), view.clock: gr.Timer(active=active)}
    if not session.ready:
        message = markup.message(session.problem or NOTHING)
        empty = dict.fromkeys((view.missing, view.line, view.cost), Markup(""))
        return {view.table: message, **empty, **job}
    comparison = _comparison(session, controls.digest)
    have = read_added(session.workdir)
    todo = measure_missing.missing_measurements(comparison, _benchmarks(controls))
    costs = cost_table(session, [name for name in controls.mixed if name in have])
    return {
        view.table: compare_html.table_html(comparison, session.models, list(have)),
        view.missing: compare_html.missing_html(measure_missing.describe(todo)),
        view.line: markup.command(_command(session, controls)),
        view.cost: compare_html.costs_html(costs),
        **job,
    }


def list_updates(session: Session, mixed: list[str], known: tuple[str, ...]) -> list[Any]:
    """Returns updates of the models that can be added, of those that are added, and of `known`.

    A newly added model counts as trained on mixed data until it is unticked.
    """
    have = read_added(session.workdir)
    taken = {str(path) for path in have.values()}
    if session.ready:
        taken |= {
            str(path.resolve()) for path in (session.models.base.path, *session.models.checkpoints)
        }
    free = [
        folder
        for folder in session.folders.models()
        if folder.kind == "model" and str(folder.path) not in taken
    ]
    ticked = [name for name in have if name in mixed or name not in known]
    return [
        gr.Dropdown([(folder.label, str(folder.path)) for folder in free], value=None),
        gr.CheckboxGroup(list(have), value=ticked, visible=bool(have)),
        tuple(have),
    ]


def _comparison(session: Session, digest: str) -> Comparison:
    return compare(session, current=current_recipe(session, digest))


def _benchmarks(controls: Controls) -> list[BenchmarkRequest]:
    """Returns the benchmark that every row should have; [] if neither suite nor tasks are given."""
    tasks = tuple(names(controls.tasks))
    if not controls.suite and not tasks:
        return []
    return [BenchmarkRequest("" if tasks else controls.suite, tasks, whole(controls.limit))]


def _command(session: Session, controls: Controls) -> str:
    """Returns the command line that does the same."""
    models, mixed = session.models, controls.mixed
    recipe = session.workdir.save_recipe(current_recipe(session, controls.digest))
    # All added models are the command's default, so only a part of them has to be named.
    some = mixed if mixed and len(mixed) < len(controls.known) else None
    options = commands.CompareOptions(
        base=models.base.path,
        checkpoints=models.checkpoints,
        workdir=session.workdir.root,
        data=models.data_folder,
        recipes=[recipe],
        suite=controls.suite,
        tasks=names(controls.tasks),
        limit=whole(controls.limit),
        mixed=some,
        vocabulary=models.start.vocabulary,
    )
    return commands.compare(options)
