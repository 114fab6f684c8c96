"""Train: a plan, its estimate, and its run with curves; finished steps become vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gradio as gr
from markupsafe import Markup

from workbench import commands, processes
from workbench.errors import SessionError
from workbench.jobs import train
from workbench.page.tabs import job_panel, markup, train_display, train_form
from workbench.page.tabs.wiring import (
    EVERY_CHANGE,
    QUIET,
    Board,
    Updates,
    clock_options,
    no_updates,
    one_at_a_time,
    opens_models,
    start_clocks,
    with_error_dialog,
)
from workbench.plans import curve, plan_files
from workbench.plots import training_curve
from workbench.reports import training as report_training
from workbench.session.session import Session

EMPTY = (
    "No training under this name yet. Press Estimate to see time and memory first, or press Start."
)
NEWEST = "newest"
STOPPED = "Stopped. All progress is saved. Press Resume to continue."


class TrainView(NamedTuple):
    """The components that show a run."""

    panel: gr.HTML
    curve_row: gr.Row
    step: gr.Dropdown
    curve: gr.Plot
    facts: gr.HTML
    add_row: gr.Row
    finished: gr.CheckboxGroup
    drawn: gr.State
    """What is drawn, so that the clock draws only what changed."""
    clock: gr.Timer


class Shown(NamedTuple):
    """What to show: name of the run, step (or NEWEST) and theme (light or dark)."""

    run: str
    step: str
    theme: str


def build(
    session: Session, board: Board, tab: gr.Tab, timer: gr.Timer, opened: Callable[[], str]
) -> None:
    """Builds the tab. `opened` returns a new value of `board.opened`; the page follows it."""
    form = train_form.build(session, tab)
    with gr.Row(elem_id="train-name-row"):
        name = gr.Textbox("run-1", label="Run name", elem_id="train-name", min_width=160)
        runs = gr.Dropdown([], label="or an earlier run", elem_id="train-runs", min_width=160)
    with gr.Row(elem_id="train-row"):
        weigh = gr.Button("Estimate", size="sm", elem_id="train-outlook", scale=0, min_width=120)
        go = gr.Button(
            "Start", variant="primary", size="sm", elem_id="train-start", scale=0, min_width=96
        )
        stop = gr.Button("Stop", size="sm", elem_id="train-stop", scale=0, min_width=96)
        resume = gr.Button("Resume", size="sm", elem_id="train-resume", scale=0, min_width=96)
    line = gr.HTML(elem_id="train-line")
    cost = gr.HTML(elem_id="train-cost")
    panel = gr.HTML(elem_id="train-job")
    with gr.Row(elem_id="train-curve-row", visible=False) as curve_row:
        step = gr.Dropdown(
            [NEWEST],
            value=NEWEST,
            label="Training curve of step",
            elem_id="train-step",
            min_width=160,
        )
    curve = gr.Plot(show_label=False, container=False, elem_id="train-curve", visible=False)
    facts = gr.HTML(elem_id="train-facts")
    with gr.Row(elem_id="train-add-row", visible=False) as add_row:
        finished = gr.CheckboxGroup([], label="Finished steps", elem_id="train-finished")
        add = gr.Button(
            "Add to the sliders", size="sm", elem_id="train-add", scale=0, min_width=160
        )
    added = gr.HTML(elem_id="train-added")
    clock = gr.Timer(1.0, active=False)
    drawn = gr.State(())

    shows = [name, step, board.theme, drawn]
    view = TrainView(panel, curve_row, step, curve, facts, add_row, finished, drawn, clock)

    def refresh(name: str, step: str, theme: str, before: Any) -> Updates:
        return view_updates(session, view, Shown(name, step, theme), before)

    def show(name: str, step: str, theme: str) -> Updates:
        return view_updates(session, view, Shown(name, step, theme), ())

    def estimate(text: str, name: str) -> Iterator[Any]:
        yield markup.message(
            "Reading the data. A few steps are timed if no similar run was trained here before.",
            title="Estimating",
        )
        outlook = train.outlook(
            session, plan_files.check(session.workdir, session.folders, text), name
        )
        head = [*report_training.HEAD]
        table = markup.table(
            head,
            [report_training.cells(step) for step in outlook.lines],
            numeric=range(1, 8),
            label="Estimate",
        )
        text = " ".join([f"{report_training.total(outlook)}.", *report_training.notes(outlook)])
        yield Markup('{}<p class="facts-line" id="train-total">{}</p>').format(table, text)

    def begin(resume: bool) -> Callable[..., list[Any]]:
        def work(text: str, name: str) -> list[Any]:
            file = plan_files.save(session.workdir, session.folders, name, text)
            train.submit(session, file, name, resume=resume)
            names = dict.fromkeys([name, *train.runs(session)])
            return [jobs_html(session, name), line_html(session, name), gr.Dropdown([*names])]

        return work

    def stop_training(name: str) -> list[Any]:
        train.stop(session, name)
        return [jobs_html(session, name), gr.Timer(active=True), gr.Timer(active=True)]

    def add_steps(name: str, steps: list[str]) -> list[Any]:
        names = train.add_steps(session, name, steps).names[-len(steps) :]
        words = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} on the sliders, at ω = 0."
        return [markup.message(words, "done", "Added"), gr.CheckboxGroup(value=[]), opened()]

    def load_run(run: str) -> list[Any]:
        return [run, train_display.plan_of_run(session, run)]

    tab.select(lambda: gr.Dropdown(train.runs(session), value=None), None, runs, **QUIET)
    wire, wire_line = one_at_a_time("run"), one_at_a_time("train-line")
    tab.select(with_error_dialog(show), shows[:3], view, **wire)
    tab.select(with_error_dialog(lambda name: line_html(session, name)), name, line, **wire_line)
    runs.input(with_error_dialog(load_run), runs, [name, form.text], **EVERY_CHANGE).then(
        with_error_dialog(form.read), form.text, form.fields, **EVERY_CHANGE
    ).then(with_error_dialog(show), shows[:3], view, **wire)
    name.change(with_error_dialog(lambda name: line_html(session, name)), name, line, **wire_line)
    for event in (name.submit, name.blur, step.input, board.theme.change):
        event(with_error_dialog(show), shows[:3], view, **wire)
    clock.tick(with_error_dialog(refresh), shows, view, **clock_options("run"))
    weigh.click(
        with_error_dialog(estimate),
        [form.text, name],
        cost,
        concurrency_limit=1,
        concurrency_id="outlook",
        trigger_mode="once",
        **QUIET,
    )
    for button, goes_on in ((go, False), (resume, True)):
        pressed = button.click(
            with_error_dialog(begin(goes_on)), [form.text, name], [panel, line, runs],
            trigger_mode="once", **QUIET,
        )  # fmt: skip
        start_clocks(pressed, [timer, clock])
    stop.click(with_error_dialog(stop_training), name, [panel, timer, clock], queue=False, **QUIET)
    added_steps = [added, finished, board.opened]
    opens_models(add, with_error_dialog(add_steps), [name, finished], added_steps)


def view_updates(session: Session, view: TrainView, shown: Shown, before: Any) -> Updates:
    """Returns updates of the view; what equals the state `before` is not drawn again.

    Args:
        session: the session.
        view: the components.
        shown: the run, step and theme to show.
        before: the value of `view.drawn`, or () to draw everything.
    """
    try:
        out = session.workdir.run(shown.run)
    except SessionError:
        return no_updates()  # `line_html` shows the error.
    jobs = [job for job in session.jobs.active() if job.kind == train.KIND]
    # A process that is no job of this server may train here too, such as `dem train`. Asked first:
    # a training that ends meanwhile is then shown once more, with its last points.
    active = any(job.active for job in jobs) or processes.running_process(out)
    curves = curve.curves(out)
    done = [step.name for step in train.steps(out) if step.state == "done"]
    chosen = shown.step if shown.step in curves else next(reversed(curves), "")
    points, dark = curves.get(chosen, []), shown.theme == "dark"
    now = (shown.run, chosen, dark, len(points), tuple(curves), tuple(done))
    updates: Updates = {
        view.panel: jobs_html(session, shown.run),
        view.drawn: now,
        view.clock: gr.Timer(active=bool(active)),
    }
    if now == before:
        return updates
    plot = gr.Plot(visible=False)
    if points:
        figure = training_curve.curve_figure(points, names_of(session, points), dark)
        plot = gr.Plot(figure, visible=True)
    updates |= {
        view.curve_row: gr.Row(visible=len(curves) > 1),
        view.step: gr.Dropdown(
            [NEWEST, *curves], value=shown.step if shown.step in curves else NEWEST
        ),
        view.curve: plot,
        view.facts: facts_html(chosen, points),
        view.add_row: gr.Row(visible=bool(done)),
    }
    # Only if the steps changed: an update would clear what is ticked.
    if before == () or before[-1] != now[-1]:
        updates[view.finished] = gr.CheckboxGroup(done)
    return updates


def names_of(session: Session, points: list[Any]) -> list[str]:
    """Returns the datasets of a curve in the order of their colours: those of the sliders first."""
    on_sliders = list(session.models.names) if session.ready else []
    measured = [name for point in points for name in point.validation]
    return list(dict.fromkeys([*on_sliders, *measured]))


def facts_html(step: str, points: list[Any]) -> Markup:
    """Returns the last numbers of a curve as text, for those who cannot see the plot."""
    if not points:
        return Markup("")
    trained = [point for point in points if point.loss is not None]
    measured = [point for point in points if point.validation]
    words = [f"{step}, update {points[-1].step}"]
    words += [f"training loss {trained[-1].loss:.3f}"] if trained else []
    if trained and trained[-1].tokens_per_second:
        words += [f"{trained[-1].tokens_per_second:,.0f} tokens/s"]
    words += [f"validation loss {measured[-1].validation_text()}"] if measured else []
    return Markup('<p class="facts-line">{}</p>').format(" · ".join(words))


def jobs_html(session: Session, name: str) -> Markup:
    """Returns the newest job of a run as HTML, and how to continue a stopped one."""
    out = session.workdir.run(name)
    job = train.last_job(session, name)
    begun = [step for step in train.steps(out) if step.state == "begun"]
    note = Markup("")
    if begun and not (job and job.active) and not processes.running_process(out):
        saved = ", ".join(f"{step.name} at update {step.saved}" for step in begun)
        note = markup.message(f"{STOPPED} Saved: {saved}.", title="Not finished")
    if job is None:
        if pid := processes.running_process(out):
            return markup.message(
                f"Process {pid}, started outside this page, is training this run.",
                title="Running",
            )
        return note or markup.message(EMPTY)
    return Markup("{}{}").format(job_panel.job_html(session, job), note)


def line_html(session: Session, name: str) -> Markup:
    """Returns the command that does the same, or why the run's name cannot be used."""
    try:
        out = session.workdir.run(name)
    except SessionError as error:
        return markup.message(str(error), "problem")
    begun = any(step.state == "begun" for step in train.steps(out))
    file = session.workdir.plan(name)
    return markup.command(commands.train(file, out, session.workdir.root, begun))
