"""One question of the tab Data: its form, what it will cost, its job, its answer, earlier runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from workbench import commands
from workbench.errors import SessionError
from workbench.influence_runs import data_answers
from workbench.jobs import data_questions
from workbench.page.tabs import job_panel, markup
from workbench.page.tabs.data.answer_view import AnswerView
from workbench.page.tabs.data.form import QuestionForm
from workbench.page.tabs.wiring import (
    EVERY_CHANGE,
    QUIET,
    Board,
    Updates,
    clock_options,
    no_updates,
    one_at_a_time,
    start_clocks,
    with_error_dialog,
)
from workbench.reports import data_outlooks
from workbench.session.session import Session

EMPTY = "No run under this name yet. Press Estimate to see its cost first, or press Start."
STOPPED = "Stopped or interrupted. What was done is kept. Press Resume to go on."


@dataclass(frozen=True)
class Panel:
    """The components of a question beside its form and its answer."""

    name: gr.Textbox
    runs: gr.Dropdown
    estimate: gr.Button
    start: gr.Button
    stop: gr.Button
    resume: gr.Button
    line: gr.HTML
    cost: gr.HTML
    job: gr.HTML
    clock: gr.Timer
    drawn: gr.State
    """What of the answer is drawn, so that the clock draws it once."""


def build_panel(question: str) -> Panel:
    """Builds the name, the buttons, and the places for command, cost and job."""
    ids = f"data-{question}"
    with gr.Row(elem_classes="data-name-row"):
        name = gr.Textbox(f"{question}-1", label="Run name", elem_id=f"{ids}-name", min_width=160)
        runs = gr.Dropdown([], label="or an earlier run", elem_id=f"{ids}-runs", min_width=160)
    with gr.Row(elem_classes="data-buttons"):

        def button(label: str, width: int, **more: Any) -> gr.Button:
            id = f"{ids}-{label.lower()}"
            return gr.Button(label, size="sm", elem_id=id, scale=0, min_width=width, **more)

        estimate = button("Estimate", 120)
        start = button("Start", 96, variant="primary")
        stop, resume = button("Stop", 96), button("Resume", 96)
    line = gr.HTML(elem_id=f"{ids}-line", elem_classes="data-line")
    cost = gr.HTML(elem_id=f"{ids}-cost")
    job = gr.HTML(elem_id=f"{ids}-job")
    clock = gr.Timer(1.0, active=False)
    return Panel(name, runs, estimate, start, stop, resume, line, cost, job, clock, gr.State(()))


def wire(
    session: Session, board: Board, tab: gr.Tab, timer: gr.Timer,
    parts: tuple[QuestionForm, Panel, AnswerView],
) -> None:  # fmt: skip
    """Connects the form, the panel and the answer of a question."""
    form, panel, view = parts
    fields, question = list(form.fields), form.question
    shown = [panel.job, panel.clock, panel.drawn, *view.components]

    def refresh(name: str, theme: str, before: Any) -> Updates:
        return _updates(session, parts, (name, theme), before)

    def show(name: str, theme: str) -> Updates:
        return _updates(session, parts, (name, theme), ())

    def line_of(name: str, *values: Any) -> Markup:
        return line_html(session, form, name, values)

    def estimate(name: str, *values: Any) -> Iterator[Any]:
        settings = form.read(*values)
        session.workdir.data_run(question, name)  # raises if it is no name
        data_questions.check(session, settings)
        yield markup.message(
            "Reading the data and timing a few examples. This takes some seconds.",
            title="Estimating",
        )
        outlook = form.estimate(settings, name)
        table = markup.table(
            list(data_outlooks.HEAD),
            [data_outlooks.cells(part) for part in outlook.parts],
            numeric=range(1, 5),
            label="Estimate",
        )
        yield Markup('{}<p class="facts-line estimate-total">{}</p>').format(
            table, data_outlooks.total(outlook)
        )

    def after_begin(name: str) -> list[Any]:
        names = dict.fromkeys([name, *data_questions.runs(session, question)])
        job = job_html(session, question, name)
        return [job, gr.Dropdown([*names]), ()]

    def begin(name: str, *values: Any) -> list[Any]:
        data_questions.submit(session, name, form.read(*values))
        return after_begin(name)

    def resume(name: str) -> list[Any]:
        data_questions.resume(session, question, name)
        return after_begin(name)

    def stop(name: str) -> list[Any]:
        data_questions.stop(session, question, name)
        return [job_html(session, question, name), *[gr.Timer(active=True)] * 2]

    def load_run(run: str) -> list[Any]:
        settings = data_questions.settings_of(session, question, run)
        return [run, *form.fill(settings)]

    def arrive(*values: Any) -> list[Any]:
        session.opened.wait(20)
        return [gr.Dropdown(data_questions.runs(session, question), value=None),
                *form.arrive(*values)]  # fmt: skip

    on_line = one_at_a_time(f"data-{question}-line")
    on_view = one_at_a_time(f"data-{question}-view")
    asked = [panel.name, *fields]
    write_line = with_error_dialog(line_of), asked, panel.line
    tab.select(with_error_dialog(arrive), fields, [panel.runs, *fields], **QUIET).then(
        *write_line, **on_line
    )
    tab.select(with_error_dialog(show), [panel.name, board.theme], shown, **on_view)
    for event in [panel.name.change, *map(_left, fields)]:
        event(*write_line, **on_line)
    panel.runs.input(
        with_error_dialog(load_run), panel.runs, [panel.name, *fields], **EVERY_CHANGE
    ).then(with_error_dialog(show), [panel.name, board.theme], shown, **on_view).then(
        *write_line, **on_line
    )
    for event in (panel.name.submit, panel.name.blur, board.theme.change):
        event(with_error_dialog(show), [panel.name, board.theme], shown, **on_view)
    panel.clock.tick(
        with_error_dialog(refresh),
        [panel.name, board.theme, panel.drawn],
        shown,
        **clock_options(f"data-{question}-view"),
    )
    panel.estimate.click(
        with_error_dialog(estimate),
        asked,
        panel.cost,
        concurrency_limit=1,
        concurrency_id="outlook",
        trigger_mode="once",
        **QUIET,
    )
    begun = [panel.job, panel.runs, panel.drawn]
    for pressed in (
        panel.start.click(with_error_dialog(begin), asked, begun, trigger_mode="once", **QUIET),
        panel.resume.click(
            with_error_dialog(resume), panel.name, begun, trigger_mode="once", **QUIET
        ),
    ):
        start_clocks(pressed, [timer, panel.clock])
    panel.stop.click(
        with_error_dialog(stop), panel.name, [panel.job, timer, panel.clock], queue=False, **QUIET
    )


def _left(field: Any) -> Callable[..., Any]:
    """Returns the event of a field that is left, or of a choice that is made."""
    event: Callable[..., Any] = (
        field.input if isinstance(field, gr.Checkbox | gr.Dropdown) else field.blur
    )
    return event


def _updates(
    session: Session,
    parts: tuple[QuestionForm, Panel, AnswerView],
    shown: tuple[str, str],
    before: Any,
) -> Updates:
    """Returns updates of the job and of the answer; an answer that is drawn is not drawn again.

    Args:
        session: the session.
        parts: of the question.
        shown: the name of the run, and the theme.
        before: the value of `drawn`, or () to draw everything.
    """
    form, panel, view = parts
    name, theme = shown
    # Asked first: a job that ends meanwhile is then shown once more, with its answer.
    active = any(job.kind == form.question for job in session.jobs.active())
    try:
        version = data_answers.version(session.workdir, form.question, name)
    except SessionError:
        return no_updates()  # the line tells what is wrong with the name
    now = (name, theme, version)
    updates: Updates = {
        panel.job: job_html(session, form.question, name),
        panel.clock: gr.Timer(active=active),
        panel.drawn: now,
    }
    return updates if now == before else updates | view.show(name, theme)


def job_html(session: Session, question: str, name: str) -> Markup:
    """Returns the newest job of a run as HTML, and how to go on with one that was stopped."""
    job = data_questions.last_job(session, question, name)
    begun = name in data_questions.runs(session, question)
    finished = data_questions.is_finished(session, question, name)
    note = Markup("")
    if begun and not finished and not (job and job.active):
        note = markup.message(STOPPED, title="Not finished")
    if job is None:
        return note if begun else markup.message(EMPTY)
    return Markup("{}{}").format(job_panel.job_html(session, job), note)


def line_html(session: Session, form: QuestionForm, name: str, values: Any) -> Markup:
    """Returns the commands that do the same, or what is wrong with a field."""
    try:
        settings = form.read(*values)
        every = data_questions.commands_of(session, name, settings)
    except SessionError as error:
        return markup.message(str(error), "problem")
    lines = [commands.shown(command.words) for command in every]
    whole = " && \\\n".join(lines)
    rest = markup.copier("copy all", whole) if len(lines) > 1 else Markup("")
    return Markup("{}{}").format(markup.join(map(markup.command, lines)), rest)
