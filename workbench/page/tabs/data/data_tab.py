"""The tab Data: three questions about training data, each with a form, a job and an answer."""

from __future__ import annotations

import gradio as gr

from workbench.page.tabs.data import (
    balance_answer,
    balance_form,
    misfiled_answer,
    misfiled_form,
    select_answer,
    select_form,
)
from workbench.page.tabs.data.question_panel import build_panel, wire
from workbench.page.tabs.wiring import Board
from workbench.session.session import Session

QUESTIONS = (
    ("Which examples should I train on?", select_form, select_answer),
    ("How much of each domain?", balance_form, balance_answer),
    ("Which examples are in the wrong place?", misfiled_form, misfiled_answer),
)


def build(session: Session, board: Board, tab: gr.Tab, timer: gr.Timer) -> None:
    """Builds the tab."""
    with gr.Tabs(elem_id="data-questions", overflow_behavior="wrap"):
        for title, form, answer in QUESTIONS:
            with gr.Tab(title, render_children=True):
                fields = form.build(session)
                panel = build_panel(fields.question)
                view = answer.build(session, board, panel.name)
                wire(session, board, tab, timer, (fields, panel, view))
