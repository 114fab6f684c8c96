"""Compare: all checkpoints and compositions side by side, what DEM and mixing cost, and hidden states by dataset."""

from __future__ import annotations

from typing import Any

import gradio as gr
from markupsafe import Markup

from workbench import commands
from workbench.comparison.added_models import add, added, remove
from workbench.comparison.collect import compare
from workbench.comparison.contenders import contenders
from workbench.comparison.costs import cost_table
from workbench.comparison.table import Comparison
from workbench.errors import SessionError
from workbench.jobs import measure_missing
from workbench.jobs.benchmark import Asked
from workbench.page.tabs import compare_html, hidden_states, job_panel, markup, sliders
from workbench.page.tabs.benchmark import names, suites, whole
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

KIND = "compare"
NOTHING = "Open models first, under Models."
ABOUT = (
    "Everything that this workdir knows: the open models, compositions that were measured, exports, and models that you add, "
    "such as one trained on mixed data."
)


def build(session: Session, board: Board, pane: sliders.Pane, tab: gr.Tab, timer: gr.Timer) -> None:
    """The tab."""
    gr.HTML(Markup("<p class='lead'>{}</p>").format(ABOUT))
    table = gr.HTML(elem_id="compare-table")
    with gr.Row(elem_id="compare-add-row"):
        folder = gr.Dropdown(
            [],
            value=None,
            label="Another model to compare with",
            elem_id="compare-folder",
            min_width=240,
        )
        plus = gr.Button("Add", size="sm", elem_id="compare-add", scale=0, min_width=96)
    with gr.Row(elem_id="compare-controls"):
        suite = gr.Dropdown(
            [("none", "")],
            value="",
            label="Suite for every row",
            elem_id="compare-suite",
            min_width=140,
        )
        tasks = gr.Textbox(
            label="or tasks, by name",
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
            "Measure what is missing",
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
        label="Added models that were trained on mixed data",
        visible=False,
        elem_id="compare-mixed",
    )
    value = gr.Textbox("", visible="hidden", label="row", elem_id="compare-value")
    use = gr.Button("use", visible="hidden", elem_id="compare-use")
    minus = gr.Button("remove", visible="hidden", elem_id="compare-remove")
    clock = gr.Timer(1.0, active=False)
    before, known = gr.State(()), gr.State(())
    hidden_states.build(session, board, tab, timer)

    asked = [suite, tasks, limit, mixed, known, board.history]
    lists = [folder, mixed, known]
    view = [table, missing, line, cost, panel, clock]

    def show(*asked: Any) -> list[Any]:
        return seen(session, *asked)

    def listed(mixed: list[str], known: tuple[str, ...]) -> list[Any]:
        return choices(session, mixed, known)

    def tick(before: Any, *asked: Any) -> list[Any]:
        """The table anew where a measurement was finished, else the job only."""
        job = next(iter(session.jobs.recent(KIND, limit=1)), None)
        now = (job.id, job.state, int(job.done)) if job else ()
        if now == before:
            return [*[gr.skip()] * 4, job_panel.newest(session, KIND), gr.skip(), now]
        return [*show(*asked), now]

    def measure(*asked: Any) -> list[Any]:
        found = _compared(session, asked[-1])
        measure_missing.submit(session, found, _wanted(*asked[:3]), _line(session, *asked))
        return [job_panel.newest(session, KIND), gr.Timer(active=True), gr.Timer(active=True)]

    def cancel() -> list[Any]:
        for job in session.jobs.active():
            if job.kind == KIND:
                session.jobs.cancel(job.id)
        return [job_panel.newest(session, KIND), gr.Timer(active=True)]

    def take(folder: str | None) -> None:
        if not folder:
            raise SessionError("choose a model of the list first.")
        add(session, folder)

    def move(value: str, history: History[Standing]) -> list[Any]:
        rows = contenders(session, current_recipe(session, history)).contenders
        at = next(
            (session.models.standing_of(row.recipe) for row in rows if row.key == value), None
        )
        if at is None:
            raise SessionError(
                "this row is no composition of the open models any more. Look at the table again."
            )
        return sliders.placed(session, at)

    tab.select(
        lambda: gr.Dropdown([("none", ""), *((name, name) for name in suites())]),
        None,
        suite,
        **QUIET,
    )
    listing = {"inputs": [mixed, known], "outputs": lists, **LATEST}
    arrived = [
        tab.select(with_error_dialog(listed), **listing),
        board.opened.change(with_error_dialog(listed), **listing),
    ]
    arrived += [
        plus.click(with_error_dialog(take), folder, None, trigger_mode="once", **QUIET).success(
            with_error_dialog(listed), **listing
        ),
        minus.click(
            with_error_dialog(lambda value: remove(session, value)),
            value,
            None,
            js="() => [window.dem.value]",
            **QUIET,
        ).success(with_error_dialog(listed), **listing),
    ]
    wire = writing("compared")
    for event in arrived:
        event.then(with_error_dialog(show), asked, view, **wire)
    gr.on(
        [suite.input, tasks.submit, tasks.blur, limit.submit, limit.blur, mixed.input, board.digest.change],
        with_error_dialog(show), asked, view, **wire,
    )  # fmt: skip
    clock.tick(with_error_dialog(tick), [before, *asked], [*view, before], **wire)
    go.click(with_error_dialog(measure), asked, [panel, clock, timer], trigger_mode="once", **QUIET)
    stop.click(with_error_dialog(cancel), None, [panel, clock], queue=False, **QUIET)
    used = use.click(
        with_error_dialog(move), [value, board.history], [*pane.picker.shown, pane.column, *pane.sliders],
        js="(_, ...rest) => [window.dem.value, ...rest]", queue=False, **QUIET,
    )  # fmt: skip
    used.then(None, None, None, js=sliders.MOVED, **QUIET)


def seen(
    session: Session,
    suite: str,
    tasks: str,
    limit: str,
    mixed: list[str],
    known: tuple[str, ...],
    history: History[Standing],
) -> list[Any]:
    """Table, what is missing, the command, the costs, the job, and whether the clock runs."""
    active = any(job.kind == KIND for job in session.jobs.active())
    shown = [job_panel.newest(session, KIND), gr.Timer(active=active)]
    if not session.ready:
        return [markup.message(session.problem or NOTHING), *[Markup("")] * 3, *shown]
    found = _compared(session, history)
    have = added(session.workdir)
    todo = measure_missing.steps(found, _wanted(suite, tasks, limit))
    return [
        compare_html.table_html(found, session.models, list(have)),
        compare_html.missing_html(measure_missing.in_words(todo)),
        markup.command(_line(session, suite, tasks, limit, mixed, known, history)),
        compare_html.costs_html(cost_table(session, [name for name in mixed if name in have])),
        *shown,
    ]


def choices(session: Session, mixed: list[str], known: tuple[str, ...]) -> list[Any]:
    """The models that can be added, and those that were: a new one counts as trained on mixed data until it is unticked."""
    have = added(session.workdir)
    taken = {str(path) for path in have.values()}
    if session.ready:
        taken |= {
            str(path.resolve()) for path in (session.models.base.path, *session.models.checkpoints)
        }
    free = [
        one for one in session.found_models() if one.kind == "model" and str(one.path) not in taken
    ]
    ticked = [name for name in have if name in mixed or name not in known]
    return [
        gr.Dropdown([(one.label, str(one.path)) for one in free], value=None),
        gr.CheckboxGroup(list(have), value=ticked, visible=bool(have)),
        tuple(have),
    ]


def _compared(session: Session, history: History[Standing]) -> Comparison:
    return compare(session, current=current_recipe(session, history))


def _wanted(suite: str, tasks: str, limit: str) -> list[Asked]:
    """The benchmark that every row should have, where one is named."""
    chosen = tuple(names(tasks))
    return [Asked("" if chosen else suite, chosen, whole(limit))] if suite or chosen else []


def _line(
    session: Session,
    suite: str,
    tasks: str,
    limit: str,
    mixed: list[str],
    known: tuple[str, ...],
    history: History[Standing],
) -> str:
    """The command that does the same in a shell."""
    models = session.models
    at = session.save_recipe(current_recipe(session, history))
    fewer = mixed if mixed and len(mixed) < len(known) else None
    return commands.compare(
        models.base.path, models.checkpoints, session.workdir.root, models.data_folder, [at], suite, names(tasks), whole(limit),
        fewer, models.start.vocabulary,
    )  # fmt: skip
