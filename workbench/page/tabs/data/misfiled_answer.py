"""Shows the most suspicious training examples with their texts, ranks and reasons."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from workbench.influence_runs import data_answers
from workbench.page.tabs import markup
from workbench.page.tabs.data import paging
from workbench.page.tabs.data.answer_view import AnswerView, downloads
from workbench.page.tabs.data.texts import text_html
from workbench.page.tabs.wiring import Board, Updates, one_at_a_time, with_error_dialog
from workbench.session.session import Session

EVERY = "all datasets"
BETTER = 0.005
"""Nats per token from which on another expert is called better; less is shown as 0.00."""


def build(session: Session, board: Board, name: gr.Textbox) -> AnswerView:
    """Builds the view of the run that `name` names; it is hidden until there is an answer."""
    with gr.Column(
        visible=False, elem_id="data-misfiled-answer", elem_classes="data-answer"
    ) as whole:
        gr.HTML("<h2>The most suspicious examples</h2>")
        gr.HTML(
            '<p class="facts-line">Suspicion is the larger of two ranks within the dataset, 100 % '
            "for its most suspicious example: by the loss of its own expert, and by how much "
            "better another expert is. Every dataset has a most suspicious example, also a clean "
            "one.</p>"
        )
        links = gr.HTML(elem_id="data-misfiled-files")
        with gr.Row(elem_classes="data-filter"):
            dataset = gr.Dropdown(
                [EVERY], value=EVERY, label="Dataset", elem_id="data-misfiled-dataset",
                min_width=160,
            )  # fmt: skip
        pager = paging.build("data-misfiled")
        rows = gr.HTML(elem_id="data-misfiled-rows")
    paged = [pager.before, pager.after, pager.where, pager.number, rows]

    def show(name: str, theme: str) -> Updates:
        answer = data_answers.answer(session.workdir, "misfiled", name)
        if answer is None:
            return {whole: gr.Column(visible=False)}
        names = dict.fromkeys(each["dataset"] for each in answer["suspects"])
        return {
            whole: gr.Column(visible=True),
            links: downloads(session, "misfiled", name),
            dataset: gr.Dropdown([EVERY, *names], value=EVERY),
            **turn(name, EVERY, 0),
        }

    def turn(name: str, dataset: str, number: int) -> Updates:
        answer = data_answers.answer(session.workdir, "misfiled", name)
        if answer is None:
            return {rows: ""}
        page = paging.page_of(suspects_of(answer["suspects"], dataset), number)
        return {
            rows: suspects_html(page.rows, ranks(answer["suspects"])),
            **paging.updates(pager, page),
        }

    inputs = [name, dataset]
    paging.wire(pager, with_error_dialog(turn), inputs, paged, "data-misfiled-rows")
    dataset.input(
        with_error_dialog(lambda name, dataset: turn(name, dataset, 0)),
        inputs,
        paged,
        **one_at_a_time("data-misfiled-rows"),
    )
    return AnswerView([whole, links, dataset, *paged], show)


def suspects_of(suspects: Sequence[Mapping[str, Any]], dataset: str) -> list[Mapping[str, Any]]:
    """Returns the suspects of a dataset, or of all of them, the most suspicious first."""
    own = [each for each in suspects if dataset in (EVERY, each["dataset"])]
    return sorted(own, key=lambda each: -each["suspicion"])


def ranks(suspects: Sequence[Mapping[str, Any]]) -> Mapping[str, tuple[list[float], list[float]]]:
    """Returns dataset -> its own losses and its loss margins, ascending, to look up ranks in."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for each in suspects:
        losses, margins = found.setdefault(each["dataset"], ([], []))
        losses.append(each["own_loss"])
        if each["loss_margin"] is not None:
            margins.append(each["loss_margin"])
    return {name: (sorted(losses), sorted(margins)) for name, (losses, margins) in found.items()}


def suspects_html(
    suspects: Sequence[Mapping[str, Any]],
    sorted_values: Mapping[str, tuple[list[float], list[float]]],
) -> Markup:
    """Returns suspects as a table; `sorted_values` is what `ranks` returned for all of them."""
    head = ["example", "text", "suspicion", "why", "own loss", "base loss", "other expert"]
    rows: list[list[object]] = []
    for each in suspects:
        losses, margins = sorted_values[each["dataset"]]
        by_loss = bisect_right(losses, each["own_loss"]) / len(losses)
        margin = each["loss_margin"]
        by_other = bisect_right(margins, margin) / len(margins) if margin is not None else 0.0
        other = "—" if margin is None else f"{each['better']} {each['own_loss'] - margin:.2f}"
        rows.append([
            Markup("{}<br><small>{}</small>").format(each["dataset"], each["name"]),
            text_html(each["text"]),
            f"{each['suspicion']:.0%}",
            reason(each, by_loss, by_other),
            f"{each['own_loss']:.2f}", f"{each['base_loss']:.2f}", other,
        ])  # fmt: skip
    table = markup.table(head, rows, numeric=[2, 4, 5], label="Suspicious examples")
    return Markup('<div class="suspects">{}</div>').format(table)


def reason(suspect: Mapping[str, Any], by_loss: float, by_other: float) -> str:
    """Returns which of the two ranks is the larger, and what that may mean.

    Args:
        suspect: the example.
        by_loss: share of its dataset with no higher loss by the own expert.
        by_other: share of its dataset of which no other expert is better by more.
    """
    margin = suspect["loss_margin"]
    if margin is not None and by_other >= by_loss and margin >= BETTER:
        return (
            f"{suspect['better']} is better by {margin:.2f} (rank {by_other:.0%}): it may belong "
            "there"
        )
    if by_other > by_loss:
        return f"{suspect['better']} is about as good (rank {by_other:.0%})"
    return f"high loss of its own expert (rank {by_loss:.0%}): its answer may be wrong"
