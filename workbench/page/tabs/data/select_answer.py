"""Shows what a selection has chosen and why: sources, scores, and examples side by side."""

from __future__ import annotations

from typing import Any

import gradio as gr

from workbench.influence_runs import data_answers
from workbench.influence_runs.data_answers import selection_file
from workbench.page.tabs.data import paging, select_html
from workbench.page.tabs.data.answer_view import AnswerView, downloads
from workbench.page.tabs.wiring import Board, Updates, one_at_a_time, with_error_dialog
from workbench.plots.score_histogram import score_histogram
from workbench.session.session import Session

CHOSEN, WANTED = "chosen examples", "validation examples"
EVERY = "all sources"


def build(session: Session, board: Board, name: gr.Textbox) -> AnswerView:
    """Builds the view of the run that `name` names; it is hidden until there is an answer."""
    with gr.Column(
        visible=False, elem_id="data-select-answer", elem_classes="data-answer"
    ) as whole:
        gr.HTML("<h2>What was chosen</h2>")
        summary = gr.HTML(elem_id="data-select-summary")
        links = gr.HTML(elem_id="data-select-files")
        scores = gr.Plot(show_label=False, container=False, elem_id="data-select-scores")
        with gr.Row(elem_classes="data-filter"):
            which = gr.Radio(
                [CHOSEN, WANTED], value=CHOSEN, label="Show", elem_id="data-select-which"
            )
            source = gr.Dropdown(
                [EVERY], value=EVERY, label="Source", elem_id="data-select-source", min_width=160
            )
        pager = paging.build("data-select")
        rows = gr.HTML(elem_id="data-select-rows")
    paged = [pager.before, pager.after, pager.where, pager.number, rows]

    def show(name: str, theme: str) -> Updates:
        answer = data_answers.answer(session.workdir, "select", name)
        if answer is None:
            return {whole: gr.Column(visible=False)}
        sources = [each["source"] for each in answer["sources"]]
        file = selection_file(session.workdir.data_run("select", name))
        return {
            whole: gr.Column(visible=True),
            summary: select_html.summary_html(answer, file),
            links: downloads(session, "select", name),
            scores: score_histogram(answer["histogram"], theme == "dark"),
            source: gr.Dropdown([EVERY, *sources], value=EVERY),
            **turn(name, CHOSEN, EVERY, 0),
            which: gr.Radio(value=CHOSEN, visible=select_html.knows_queries(answer)),
        }

    def turn(name: str, which: str, source: str, number: int) -> Updates:
        answer = data_answers.answer(session.workdir, "select", name)
        if answer is None:
            return {rows: ""}
        own = answer["chosen"] if which == CHOSEN else answer["queries"]
        if source != EVERY and which == CHOSEN:
            own = [each for each in own if each["source"] == source]
        page = paging.page_of(own, number)
        html = (
            select_html.chosen_html(page, answer["queries"])
            if which == CHOSEN
            else select_html.queries_html(page)
        )
        return {rows: html, **paging.updates(pager, page)}

    paging.wire(pager, with_error_dialog(turn), [name, which, source], paged, "data-select-rows")

    def begin(name: str, which: str, source: str) -> Updates:
        return turn(name, which, source, 0)

    for field in (which, source):
        field.input(
            with_error_dialog(begin),
            [name, which, source],
            paged,
            **one_at_a_time("data-select-rows"),
        )
    components: list[Any] = [whole, summary, links, scores, which, source, *paged]
    return AnswerView(components, show)
