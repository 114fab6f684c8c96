"""Train: a plan from fields or as text, what it takes, and its run: stop, resume, curves, and its steps as vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from markupsafe import Markup

from workbench import commands, processes
from workbench.errors import SessionError
from workbench.jobs import train
from workbench.page.tabs import job_panel, markup, train_display, train_form
from workbench.page.tabs.wiring import LATEST, QUIET, Board, with_error_dialog, writing
from workbench.plans import curve, plan_files
from workbench.plots import training_curve
from workbench.reports import training as report_training
from workbench.session.session import Session

EMPTY = (
    "Nothing was trained under this name yet. Press What it takes to see the cost first, or Start."
)
NEWEST = "the newest"
STOPPED = "Stopped. The whole state is kept; Resume goes on from there."


def build(
    session: Session, board: Board, tab: gr.Tab, timer: gr.Timer, opened: Callable[[], str]
) -> None:
    """The tab. `opened` gives the word whose change tells the page that other models are open."""
    form = train_form.build(session, tab)
    with gr.Row(elem_id="train-name-row"):
        name = gr.Textbox("run-1", label="Name of the run", elem_id="train-name", min_width=160)
        known = gr.Dropdown([], label="or an earlier run", elem_id="train-runs", min_width=160)
    with gr.Row(elem_id="train-row"):
        weigh = gr.Button(
            "What it takes", size="sm", elem_id="train-outlook", scale=0, min_width=120
        )
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
            [NEWEST], value=NEWEST, label="Curve of step", elem_id="train-step", min_width=160
        )
    curve = gr.Plot(show_label=False, container=False, elem_id="train-curve", visible=False)
    facts = gr.HTML(elem_id="train-facts")
    with gr.Row(elem_id="train-add-row", visible=False) as add_row:
        finished = gr.CheckboxGroup([], label="Finished steps", elem_id="train-finished")
        add = gr.Button(
            "Add to the composition", size="sm", elem_id="train-add", scale=0, min_width=160
        )
    added = gr.HTML(elem_id="train-added")
    clock = gr.Timer(1.0, active=False)
    drawn = gr.State(())

    shows = [name, step, board.theme, drawn]
    view = [panel, curve_row, step, curve, facts, add_row, finished, drawn, clock]

    def look(name: str, step: str, theme: str, before: Any) -> list[Any]:
        return seen(session, name, step, theme == "dark", before)

    def chosen(name: str, step: str, theme: str) -> list[Any]:
        return seen(session, name, step, theme == "dark", ())

    def weighed(text: str, name: str) -> Iterator[Any]:
        yield markup.message(
            "Reading the data, and timing some steps where none like these were trained here.",
            title="Looking",
        )
        found = train.outlook(
            session, plan_files.check(session.workdir, session.folders, text), name
        )
        head = [*report_training.HEAD]
        table = markup.table(
            head,
            [report_training.cells(one) for one in found.lines],
            numeric=range(1, 8),
            label="What it takes",
        )
        said = ". ".join([report_training.total(found), *report_training.notes(found)])
        yield Markup('{}<p class="facts-line" id="train-total">{}</p>').format(table, said)

    def begin(resume: bool) -> Callable[..., list[Any]]:
        def work(text: str, name: str) -> list[Any]:
            file = plan_files.save(session.workdir, session.folders, name, text)
            train.submit(session, file, name, resume=resume)
            names = dict.fromkeys([name, *train.runs(session)])
            return [
                jobs_html(session, name),
                line_html(session, name),
                gr.Dropdown([*names]),
                *[gr.Timer(active=True)] * 2,
            ]

        return work

    def end(name: str) -> list[Any]:
        train.stop(session, name)
        return [jobs_html(session, name), gr.Timer(active=True), gr.Timer(active=True)]

    def take(name: str, steps: list[str]) -> list[Any]:
        names = train.add(session, name, steps).names[-len(steps) :]
        words = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} on the sliders, at ω = 0."
        return [markup.message(words, "done", "Added"), gr.CheckboxGroup(value=[]), opened()]

    def again(known: str) -> list[Any]:
        return [known, train_display.text_of(session, known)]

    tab.select(lambda: gr.Dropdown(train.runs(session), value=None), None, known, **QUIET)
    wire, wire_line = writing("run"), writing("train-line")
    tab.select(with_error_dialog(chosen), shows[:3], view, **wire)
    tab.select(with_error_dialog(lambda name: line_html(session, name)), name, line, **wire_line)
    known.input(with_error_dialog(again), known, [name, form.text], **LATEST).then(
        with_error_dialog(form.read), form.text, form.fields, **LATEST
    ).then(with_error_dialog(chosen), shows[:3], view, **wire)
    name.change(with_error_dialog(lambda name: line_html(session, name)), name, line, **wire_line)
    for event in (name.submit, name.blur, step.input, board.theme.change):
        event(with_error_dialog(chosen), shows[:3], view, **wire)
    clock.tick(with_error_dialog(look), shows, view, **wire)
    weigh.click(
        with_error_dialog(weighed),
        [form.text, name],
        cost,
        concurrency_limit=1,
        concurrency_id="outlook",
        trigger_mode="once",
        **QUIET,
    )
    started = [panel, line, known, timer, clock]
    go.click(
        with_error_dialog(begin(False)), [form.text, name], started, trigger_mode="once", **QUIET
    )
    resume.click(
        with_error_dialog(begin(True)), [form.text, name], started, trigger_mode="once", **QUIET
    )
    stop.click(with_error_dialog(end), name, [panel, timer, clock], queue=False, **QUIET)
    add.click(
        with_error_dialog(take), [name, finished], [added, finished, board.opened],
        concurrency_id="open", concurrency_limit=1, trigger_mode="once", **QUIET,
    )  # fmt: skip


def seen(session: Session, name: str, step: str, dark: bool, before: Any) -> list[Any]:
    """What the page shows of a run: its job, a curve, its finished steps; what did not change is not drawn again."""
    try:
        out = session.workdir.run(name)
    except SessionError:  # said under the name
        return [gr.skip()] * 9
    curves = curve.curves(out)
    done = [one.name for one in train.steps(out) if one.state == "done"]
    chosen = step if step in curves else next(reversed(curves), "")
    points = curves.get(chosen, [])
    now = (name, chosen, dark, len(points), tuple(curves), tuple(done))
    active = any(
        job.kind == train.KIND and job.active for job in session.jobs.active()
    ) or processes.running(out)
    shown = [jobs_html(session, name), *[gr.skip()] * 6, now, gr.Timer(active=bool(active))]
    if now == before:
        return shown
    shown[1:7] = [
        gr.Row(visible=len(curves) > 1),
        gr.Dropdown([NEWEST, *curves], value=step if step in curves else NEWEST),
        gr.Plot(training_curve.curve_figure(points, names_of(session, points), dark), visible=True)
        if points
        else gr.Plot(visible=False),
        facts_html(chosen, points),
        gr.Row(visible=bool(done)),
        gr.CheckboxGroup(done) if before == () or before[-1] != now[-1] else gr.skip(),
    ]
    return shown


def names_of(session: Session, points: list[Any]) -> list[str]:
    """Datasets in the order of their colours: those of the sliders first."""
    known = list(session.models.names) if session.ready else []
    measured = [name for point in points for name in point.validation]
    return list(dict.fromkeys([*known, *measured]))


def facts_html(step: str, points: list[Any]) -> Markup:
    """The last numbers of a curve, in words: the picture is not all there is."""
    if not points:
        return Markup("")
    trained = [point for point in points if point.loss is not None]
    measured = [point for point in points if point.validation]
    words = [f"{step}, update {points[-1].step}"]
    words += [f"training loss {trained[-1].loss:.3f}"] if trained else []
    if trained and trained[-1].tokens_per_second:
        words += [f"{trained[-1].tokens_per_second:,.0f} tokens/s"]
    words += [
        f"validation {name} {loss:.3f}"
        for name, loss in (measured[-1].validation.items() if measured else ())
    ]
    return Markup('<p class="facts-line">{}</p>').format(" · ".join(words))


def jobs_html(session: Session, name: str) -> Markup:
    """The newest job of a run, and what a stopped one needs."""
    out = session.workdir.run(name)
    job = train.last_job(session, name)
    begun = [step for step in train.steps(out) if step.state == "begun"]
    note = Markup("")
    if begun and not (job and job.active) and not processes.running(out):
        saved = ", ".join(f"{step.name} at update {step.saved}" for step in begun)
        note = markup.message(f"{STOPPED} Saved: {saved}.", title="Not finished")
    if job is None:
        if pid := processes.running(out):
            return markup.message(
                f"Process {pid} trains here; it was started elsewhere.", title="Running"
            )
        return note or markup.message(EMPTY)
    return Markup("{}{}").format(job_panel.job_html(job, session.jobs.tail(job.id)), note)


def line_html(session: Session, name: str) -> Markup:
    """The command that does the same in a shell, or why the name cannot be used."""
    try:
        out = session.workdir.run(name)
    except SessionError as error:
        return markup.message(str(error), "problem")
    begun = any(step.state == "begun" for step in train.steps(out))
    file = session.workdir.plan(name)
    return markup.command(commands.train(file, out, session.workdir.root, begun))
