"""Shows what balancing has measured: the mixtures, and why each of them was proposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from influence.balance.weight_trace import read_trace
from plumbing import units
from workbench import commands
from workbench.influence_runs import data_answers
from workbench.influence_runs.proxy_runs import has_proxy, weights_file
from workbench.jobs import data_questions
from workbench.page.tabs import markup
from workbench.page.tabs.data.answer_view import AnswerView, downloads
from workbench.page.tabs.data.proposal_html import cost_text, label, method_of, weights_html
from workbench.page.tabs.wiring import Board, Updates
from workbench.plots.domain_weights import domain_weights
from workbench.reports.influence_tables import AGREES, STATIONARY
from workbench.session.session import Session

START = "The start is the plan's own mixture: each domain as it is."


def build(session: Session, board: Board, name: gr.Textbox) -> AnswerView:
    """Builds the view; it is hidden until there is an answer."""
    with gr.Column(
        visible=False, elem_id="data-balance-answer", elem_classes="data-answer"
    ) as whole:
        gr.HTML("<h2>The mixtures</h2>")
        rounds = gr.HTML(elem_id="data-balance-rounds-table")
        weights = gr.Plot(
            show_label=False, container=False, visible=False, elem_id="data-balance-weights"
        )
        links = gr.HTML(elem_id="data-balance-files")

    def show(name: str, theme: str) -> Updates:
        answer = data_answers.answer(session.workdir, "balance", name)
        if answer is None:
            return {whole: gr.Column(visible=False)}
        folder = session.workdir.data_run("balance", name)
        finished = data_questions.is_finished(session, "balance", name)
        figure = weights_figure(answer["rounds"], folder / data_answers.ROUNDS, theme == "dark")
        return {
            whole: gr.Column(visible=True),
            rounds: answer_html(answer["rounds"], folder, session.workdir.root, finished=finished),
            weights: gr.Plot(figure, visible=figure is not None),
            links: downloads(session, "balance", name),
        }

    return AnswerView([whole, rounds, weights, links], show)


def weights_figure(rounds: Sequence[Mapping[str, Any]], out: Path, dark: bool) -> Any:
    """Returns a plot of the weights of the proxy over its steps, or None without a table of them.

    Args:
        rounds: of the answer.
        out: folder of the trainings.
        dark: whether the theme is dark.
    """
    proposal = rounds[-1]
    method = method_of(proposal)
    if not has_proxy(method) or not (file := weights_file(out, method)).is_file():
        return None
    domains = tuple(proposal["sizes"])
    # Only the mean depends on whether the start counts, and it is not drawn.
    trace = read_trace(file.read_text("utf-8"), domains, with_start=True)
    return domain_weights(domains, trace.weights, dark)


def answer_html(
    rounds: Sequence[Mapping[str, Any]], folder: Path, root: Path, *, finished: bool
) -> Markup:
    """Returns the mixtures as HTML, and once all are measured the command that trains the proposal.

    Args:
        rounds: of the answer, those that are measured.
        folder: of the run.
        root: the workdir.
        finished: whether they are all.
    """
    parts = [_mixtures_table(rounds)]
    parts += [_step_html(*pair) for pair in pairwise(rounds)]
    parts += map(weights_html, rounds)
    if not finished:
        parts.append(markup.message("This is measured so far. The run is not finished."))
        return markup.join(parts)
    equal = "an equal share of each domain"
    advice = (
        f"No way of mixing is known to beat {equal} reliably."
        if method_of(rounds[-1]) == "stratified"
        else f"Train it, and {equal} too: no way of mixing is known to beat that reliably."
    )
    plan = folder / data_answers.ROUNDS / data_answers.BALANCED
    words: list[str | Path] = ["train", plan, folder / "trained", "--workdir", root]
    parts += [
        Markup('<p class="facts-line">The last mixture is a plan. {}</p>').format(advice),
        markup.command(commands.shown(words)),
    ]
    return markup.join(parts)


def _mixtures_table(rounds: Sequence[Mapping[str, Any]]) -> Markup:
    """Returns the sizes, the losses and the tokens, a column for each mixture."""
    head = ["measured", *map(label, rounds)]
    rows: list[list[str]] = [
        [f"examples of {name}", *(_size(each["sizes"], name) for each in rounds)]
        for name in rounds[0]["sizes"]
    ]
    for at, loss in enumerate(rounds[0]["losses"]):
        values = [each["losses"][at] for each in rounds]
        rows.append([f"loss of {loss['dataset']}", *map(_loss, values)])
    rows.append(["mean loss", *(units.number(each["mean"], 4) for each in rounds)])
    facts = START
    # An answer of an earlier version does not have them.
    if "tokens" in rounds[0]:
        rows.append(["tokens trained", *(f"{each['tokens']:,}" for each in rounds)])
        facts = f"{START} {cost_text(rounds)}"
    table = markup.table(head, rows, numeric=range(1, len(head)), label="Mixtures")
    return Markup('{}<p class="facts-line">{}</p>').format(table, facts)


def _size(sizes: Mapping[str, int], name: str) -> str:
    """Returns how many examples a mixture has of a domain, and the share of the domain."""
    return f"{sizes[name]:,} ({sizes[name] / sum(sizes.values()):.1%})"


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
    title = f"Influence of the domains after {'the ' * (before['number'] == 0)}{label(before)}"
    table = markup.table(head, rows, numeric=[1, 2, 3], label=title)
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
        title, table, facts, markup.message("\n".join(warnings), "warning") if warnings else ""
    )
