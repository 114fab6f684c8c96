"""Shows the rounds of balancing: sizes, losses, α with what says how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from plumbing import units
from workbench import commands
from workbench.influence_runs import data_answers
from workbench.page.tabs import markup
from workbench.page.tabs.data.answer_view import AnswerView, downloads
from workbench.page.tabs.wiring import Board, Updates
from workbench.reports.influence_tables import AGREES, STATIONARY
from workbench.session.session import Session


def build(session: Session, board: Board, name: gr.Textbox) -> AnswerView:
    """Builds the view; it is hidden until there is an answer."""
    with gr.Column(
        visible=False, elem_id="data-balance-answer", elem_classes="data-answer"
    ) as whole:
        gr.HTML("<h2>The rounds</h2>")
        rounds = gr.HTML(elem_id="data-balance-rounds-table")
        links = gr.HTML(elem_id="data-balance-files")

    def show(name: str, theme: str) -> Updates:
        answer = data_answers.answer(session.workdir, "balance", name)
        if answer is None:
            return {whole: gr.Column(visible=False)}
        folder = session.workdir.data_run("balance", name)
        return {
            whole: gr.Column(visible=True),
            rounds: answer_html(answer["rounds"], folder, session.workdir.root),
            links: downloads(session, "balance", name),
        }

    return AnswerView([whole, rounds, links], show)


def answer_html(rounds: Sequence[Mapping[str, Any]], folder: Path, root: Path) -> Markup:
    """Returns all rounds as HTML, and the command that trains the last mixture."""
    plan = folder / "rounds" / "balanced.yml"
    words: list[str | Path] = ["train", plan, folder / "trained", "--workdir", root]
    line = markup.command(commands.shown(words))
    steps = markup.join(_step_html(*pair) for pair in pairwise(rounds))
    return Markup(
        '{}{}<p class="facts-line">The last mixture is a plan. Train it, and an equal share of '
        "each domain too: no way of mixing is known to beat that reliably.</p>{}"
    ).format(_rounds_table(rounds), steps, line)


def _rounds_table(rounds: Sequence[Mapping[str, Any]]) -> Markup:
    """Returns the sizes and the losses, a column for each round."""
    head = ["measured", *(f"round {each['number']}" for each in rounds)]
    rows: list[list[str]] = [
        [f"examples of {name}", *(f"{each['sizes'][name]:,}" for each in rounds)]
        for name in rounds[0]["sizes"]
    ]
    for at, loss in enumerate(rounds[0]["losses"]):
        values = [each["losses"][at] for each in rounds]
        rows.append([f"loss of {loss['dataset']}", *map(_loss, values)])
    rows.append(["mean loss", *(units.number(each["mean"], 4) for each in rounds)])
    return markup.table(head, rows, numeric=range(1, len(head)), label="Rounds")


def _loss(loss: Mapping[str, Any]) -> str:
    error = loss["stderr"]
    text = units.number(loss["value"], 4)
    return text if error is None else f"{text} ±{units.number(error, 4)}"


def _step_html(before: Mapping[str, Any], after: Mapping[str, Any]) -> Markup:
    """Returns what one round says about the domains, what came of it, and warnings."""
    if "alpha" not in before:
        return Markup("")
    rows = [
        [
            name,
            units.number(alpha, 4),
            f"{units.number(before['beta'][name] * 100, 1)} %",
            f"{before['sizes'][name]:,} → {after['sizes'][name]:,}",
        ]
        for name, alpha in before["alpha"].items()
    ]
    head = ["domain", "α (below 0: more helps)", "change", "examples"]
    label = f"Influence of the domains after round {before['number']}"
    table = markup.table(head, rows, numeric=[1, 2, 3], label=label)
    change = after["mean"] - before["mean"]
    # A correlation that is not defined is null in JSON.
    halves = before["split_half"]
    facts = (
        f"Change of the mean loss: {units.number(before['predicted_change'], 4)} predicted, "
        f"{units.number(change, 4)} measured. Stationarity "
        f"{units.number(before['stationarity'], 2)}, Σα/Σ|α| "
        f"{units.number(before['imbalance'], 2)}, agreement of two halves "
        f"{'—' if halves is None else units.number(halves, 2)}."
    )
    warnings = []
    if before["stationarity"] > STATIONARY:
        warnings.append(
            "The model is far from an optimum of its training loss, so α is of its training, not "
            "of its data. Train longer."
        )
    if halves is None or halves < AGREES:
        warnings.append("The two halves of the examples disagree. Give more examples per set.")
    return Markup('<h3>{}</h3>{}<p class="facts-line">{}</p>{}').format(
        label, table, facts, markup.message("\n".join(warnings), "warning") if warnings else ""
    )
