"""Compose: how close the composition is to each expert, and its answer to a prompt."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from plumbing import units
from workbench import commands
from workbench.page.tabs import markup
from workbench.page.tabs.wiring import QUIET, with_error_dialog
from workbench.plots.bullets import Gain, gain
from workbench.session.session import LossOnAxis, Reading, Session, Stale

AXIS = (-0.4, 1.25)
"""The range of shares that the chart shows: 0 is the base, 1 the dataset's expert.

A share outside the range is drawn at the edge, with an arrow.
"""
NOTHING_YET = "Enter a prompt. The answer follows the sliders."


@dataclass(frozen=True)
class Tab:
    """The components of the tab that settling and arriving write."""

    chart: gr.HTML
    prompt: gr.Textbox
    answer: gr.HTML
    examples: gr.Dropdown
    other: gr.Dropdown


def build(session: Session) -> Tab:
    """Builds the chart and the two answers."""
    with gr.Row(elem_id="compose"):
        with gr.Column(scale=5, min_width=320, elem_id="bullets"):
            chart = gr.HTML(empty_chart(), elem_id="chart")
        with gr.Column(scale=3, min_width=300, elem_id="ask"):
            gr.HTML(Markup("<h2>Try a prompt</h2>"))
            examples = gr.Dropdown([], label="Example prompts", elem_id="examples")
            prompt = gr.Textbox(
                label="Prompt",
                lines=3,
                max_lines=8,
                elem_id="prompt",
                placeholder=NOTHING_YET,
                container=False,
            )
            send = gr.Button("Ask", variant="primary", size="sm", elem_id="send")
            gr.HTML(Markup('<h3><span class="ab">A</span> this composition</h3>'))
            answer = gr.HTML(answer_html("", NOTHING_YET), elem_id="answer-a")
            with gr.Row(elem_id="b-row"):
                gr.HTML(Markup('<h3><span class="ab">B</span> compare with</h3>'))
                other = gr.Dropdown(
                    ["base"], value="base", label="Compare with", elem_id="b-model", container=False
                )
            answer_b = gr.HTML(answer_html("", ""), elem_id="answer-b")
    tab = Tab(chart, prompt, answer, examples, other)

    def answer_other(prompt: str, which: str, request: gr.Request) -> Iterator[Any]:
        if not prompt.strip():
            yield answer_html("", "")
            return
        recipe = session.recipe(session.preset("base" if which == "base" else f"only:{which}"))
        stale = session.tickets.ticket(f"{request.session_hash}:b")
        yield from stream_answer_html(session, recipe, prompt, stale)

    for event in (send.click, prompt.submit):
        event(None, None, None, js="() => window.dem.settle(20)", **QUIET)
    wire = {"trigger_mode": "multiple", "concurrency_limit": 4, **QUIET}
    gr.on(
        [send.click, prompt.submit, other.change],
        with_error_dialog(answer_other),
        [prompt, other],
        answer_b,
        **wire,
    )
    filled = examples.change(lambda text: text or "", examples, prompt, **QUIET)
    filled.then(None, None, None, js="() => window.dem.settle(20)", **QUIET)
    filled.then(with_error_dialog(answer_other), [prompt, other], answer_b, **wire)
    return tab


def stream_answer_html(
    session: Session, recipe: Any, prompt: str, stale: Stale
) -> Iterator[Markup]:
    """Yields the growing answer as HTML with token count and time, and at the end the recipe."""
    begin, text, count = time.monotonic(), "", 0
    for piece in session.generate(recipe, prompt, stale=stale):
        text, count = text + piece, count + 1
        yield answer_html(
            text, f"{count} tokens, {units.seconds(time.monotonic() - begin)}", growing=True
        )
    if not stale():
        spent = units.seconds(time.monotonic() - begin)
        yield answer_html(
            text or "(empty answer)", f"{count} tokens in {spent} · recipe {recipe.digest}"
        )


def answer_html(text: str, note: str, growing: bool = False) -> Markup:
    """Returns one answer as HTML, with a note below it."""
    return Markup(
        '<div class="answer{}" aria-live="polite"><pre tabindex="0">{}</pre><small>{}</small></div>'
    ).format(" growing" if growing else "", text.lstrip(), note)


def measure_and_answer(
    session: Session, recipe: Any, prompt: str, stale: Stale
) -> Iterator[tuple[Any, Any, str]]:
    """Yields chart, answer and state of the page: quick losses, then the answer, then full losses.

    The answer comes before the full losses because those take much longer.
    """
    answered = not prompt.strip()
    for reading in session.measure(recipe, stale=stale):
        yield (
            chart_html(session, reading),
            gr.skip(),
            "composing" if reading.stage == "composing" else "live",
        )
        if (
            not answered
            and len(reading.points) == len(session.models.data)
            and reading.stage == "measuring"
        ):
            answered = True
            for answer in stream_answer_html(session, recipe, prompt, stale):
                yield gr.skip(), answer, "live"
    # Without validation data there are no losses, so the loop above did not get to the answer.
    if not answered and not stale():
        for answer in stream_answer_html(session, recipe, prompt, stale):
            yield gr.skip(), answer, "live"


def empty_chart() -> Markup:
    """Returns the placeholder of the chart until models are open."""
    return markup.message("Opening the models. This takes a few seconds.", title="Loading")


def chart_html(session: Session, reading: Reading) -> Markup:
    """Returns the bar chart: per dataset, the share of its expert's gain that the merge keeps."""
    models = session.models
    if not models.data:
        return markup.message(
            "Choose a data folder under Models to see the losses. It has one folder per dataset, "
            "each with a validation.jsonl of prompts and completions.",
            title="No validation data",
        )
    rows = markup.join(
        _row(colour, name, reading.points.get(name))
        for colour, name in _colours(models.names, list(models.data))
    )
    line = Markup("")
    # A preview saves no recipe: a moving slider passes through many that nobody wants.
    if models.data_folder and reading.stage != "preview":
        line = markup.command(
            commands.loss(session.save_recipe(reading.recipe), models.data_folder)
        )
    return Markup(
        '<section class="bullets {}" data-digest="{}" data-stage="{}" data-sizes="{}">'
        "<header><h2>Share of each expert’s gain that the merge keeps</h2>{}</header>"
        '<div class="axis" aria-hidden="true"><span></span><div>{}</div>'
        '<span class="num">share</span><span class="num">loss</span></div>{}{}</section>{}'
    ).format(
        reading.stage,
        reading.recipe.digest,
        reading.stage,
        " ".join("quick" if point.quick else "full" for point in reading.points.values()),
        _sizes(reading),
        _ticks(),
        rows,
        _mean(reading.points),
        line,
    )


def _colours(vectors: list[str], datasets: list[str]) -> Iterator[tuple[int, str]]:
    """Yields colour and dataset: the index of its vector, or the next free one if it has none."""
    extra = len(vectors)
    for name in datasets:
        yield (vectors.index(name) if name in vectors else extra), name
        extra += name not in vectors


def _at(share: float) -> float:
    """Returns the position of a share on the chart, in percent of its width."""
    low, high = AXIS
    return (min(max(share, low), high) - low) / (high - low) * 100


def _ticks() -> Markup:
    return markup.join(
        Markup('<i style="left:{}%">{}</i>').format(f"{_at(share):.2f}", label)
        for share, label in ((0.0, "base"), (0.5, "50 %"), (1.0, "expert"))
    )


def _row(colour: int, name: str, point: LossOnAxis | None) -> Markup:
    """Returns the bar of one dataset; without a point, a placeholder of the same height."""
    if point is None:
        bar = Markup(
            '<div class="track"></div><span class="num share">…</span>'
            '<span class="num loss">…</span>'
        )
        return Markup(
            '<div class="row waiting"><span class="who">{}<span>{}</span></span>{}</div>'
        ).format(markup.swatch(colour), name, bar)
    row = gain(name, point.loss, point.base, point.expert)
    has_share = row.share is not None
    share, error = (row.share, row.share_stderr or 0.0) if row.share is not None else (0.0, 0.0)
    start, end = sorted((_at(0), _at(share)))
    low, high = _at(share - error), _at(share + error)
    beyond = "over" if share > AXIS[1] else "under" if share < AXIS[0] else ""
    drawing = (
        Markup(
            '<b style="left:{:.2f}%;width:{:.2f}%"></b><u style="left:{:.2f}%;width:{:.2f}%"></u>'
        ).format(start, end - start, low, high - low)
        if has_share
        else Markup("")
    )
    words = _in_words(row, point.quick)
    return Markup(
        '<div class="row {} {}" style="--c:var(--dataset-{})">'
        '<span class="who">{}<span title="{}">{}</span></span>'
        '<div class="track" role="img" aria-label="{}">{}</div>'
        '<span class="num share">{}</span>'
        '<span class="num loss" title="base {}, expert {}">{}</span></div>'
    ).format(
        "quick" if point.quick else "full",
        beyond,
        colour % 8,
        markup.swatch(colour),
        name,
        name,
        words,
        drawing,
        Markup("<b>{}</b> <small>±{}</small>").format(units.percent(share), f"{error * 100:.0f}")
        if has_share
        else "—",
        units.number(row.base),
        units.number(row.expert) if row.expert is not None else "—",
        Markup("{} <small>±{}</small>").format(units.number(row.loss), units.number(row.stderr)),
    )


def _in_words(row: Gain, quick: bool) -> str:
    """Returns a bar in words, for screen readers."""
    share = f"{units.percent(row.share)} of its expert's gain, " if row.share is not None else ""
    size = f"quick, {row.n} examples" if quick else f"{row.n} examples"
    return f"{row.dataset}: {share}loss {row.loss:.3f}, standard error {row.stderr:.3f}, {size}"


def _sizes(reading: Reading) -> Markup:
    """Returns the number of examples behind the bars, and whether it is the quick subset."""
    points = list(reading.points.values())
    if not points:
        return Markup('<span class="sizes">composing…</span>')
    quick, n = any(point.quick for point in points), sum(point.loss.n for point in points)
    words = f"quick, n = {n}; full set follows" if quick else f"n = {n}"
    words = f"preview, n = {n}; exact when you stop" if reading.stage == "preview" else words
    return Markup('<span class="sizes {}"><i></i>{}</span>').format(
        "quick" if quick else "full", words
    )


def _mean(points: Mapping[str, LossOnAxis]) -> Markup:
    """Returns the mean loss over the datasets with its standard error.

    It is left open while some losses are quick and others full: their mean would be of neither.
    """
    if not points or len({point.quick for point in points.values()}) > 1:
        return Markup('<div class="mean"><span>mean loss</span><b>…</b></div>')
    values = [point.loss for point in points.values()]
    mean = sum(value.value for value in values) / len(values)
    error = math.sqrt(sum(value.stderr**2 for value in values)) / len(values)
    n = sum(value.n for value in values)
    return Markup(
        '<div class="mean"><span>mean loss of {} datasets, nats per token</span>'
        "<b>{}</b><small>±{}</small><small>n = {}</small></div>"
    ).format(len(values), units.number(mean), units.number(error), n)
