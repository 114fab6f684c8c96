"""Compose: where the composition stands between the base and each expert, and what it answers."""

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
from workbench.plots.charts import Gain, gain
from workbench.session.session import LossOnAxis, Reading, Session, Stale

AXIS = (-0.4, 1.25)
"""What the chart shows of the axis from base (0) to expert (1); a place outside is drawn at its edge, with an arrow."""
NOTHING_YET = "Write a prompt; the answer follows the sliders."


@dataclass(frozen=True)
class Tab:
    """The tab's components that the settling of the sliders writes."""

    chart: gr.HTML
    prompt: gr.Textbox
    answer: gr.HTML
    examples: gr.Dropdown
    other: gr.Dropdown


def build(session: Session) -> Tab:
    """The chart and the two columns of answers."""
    with gr.Row(elem_id="compose"):
        with gr.Column(scale=5, min_width=320, elem_id="bullets"):
            chart = gr.HTML(empty_chart(), elem_id="chart")
        with gr.Column(scale=3, min_width=300, elem_id="ask"):
            gr.HTML(Markup("<h2>Ask the composition</h2>"))
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

    def compare(prompt: str, which: str, request: gr.Request) -> Iterator[Any]:
        if not prompt.strip():
            yield answer_html("", "")
            return
        recipe = session.recipe(session.preset("base" if which == "base" else f"only:{which}"))
        yield from answers(
            session, recipe, prompt, session.tickets.ticket(f"{request.session_hash}:b")
        )

    for event in (send.click, prompt.submit):
        event(None, None, None, js="() => window.dem.settle(20)", **QUIET)
    wire = {"trigger_mode": "multiple", "concurrency_limit": 4, **QUIET}
    gr.on(
        [send.click, prompt.submit, other.change],
        with_error_dialog(compare),
        [prompt, other],
        answer_b,
        **wire,
    )
    chosen = examples.change(lambda text: text or "", examples, prompt, **QUIET)
    chosen.then(None, None, None, js="() => window.dem.settle(20)", **QUIET)
    chosen.then(with_error_dialog(compare), [prompt, other], answer_b, **wire)
    return tab


def answers(session: Session, recipe: Any, prompt: str, stale: Stale) -> Iterator[Markup]:
    """An answer as it grows, with its tokens' pace and the recipe it came from."""
    begin, text, count = time.monotonic(), "", 0
    for piece in session.generate(recipe, prompt, stale=stale):
        text, count = text + piece, count + 1
        yield answer_html(
            text, f"{count} tokens, {units.seconds(time.monotonic() - begin)}", growing=True
        )
    if not stale():
        spent = units.seconds(time.monotonic() - begin)
        yield answer_html(
            text or "(ends at once)", f"{count} tokens in {spent} · recipe {recipe.digest}"
        )


def answer_html(text: str, note: str, growing: bool = False) -> Markup:
    """One column's answer."""
    return Markup(
        '<div class="answer{}" aria-live="polite"><pre tabindex="0">{}</pre><small>{}</small></div>'
    ).format(" growing" if growing else "", text.lstrip(), note)


def settled(
    session: Session, recipe: Any, prompt: str, stale: Stale
) -> Iterator[tuple[Any, Any, str]]:
    """Chart, answer and state as they become known: quick losses, then the answer, then the full losses."""
    asked = not prompt.strip()
    for reading in session.measure(recipe, stale=stale):
        yield (
            chart_html(session, reading),
            gr.skip(),
            "composing" if reading.stage == "composing" else "live",
        )
        if (
            not asked
            and len(reading.points) == len(session.models.data)
            and reading.stage == "measuring"
        ):
            asked = True
            for answer in answers(session, recipe, prompt, stale):
                yield gr.skip(), answer, "live"
    if not asked and not stale():  # there is no data to measure on: only the answer
        for answer in answers(session, recipe, prompt, stale):
            yield gr.skip(), answer, "live"


def empty_chart() -> Markup:
    """Before anything is open."""
    return markup.message(
        "Opening the models. Sliders and bars appear here in a few seconds.", title="Loading"
    )


def chart_html(session: Session, reading: Reading) -> Markup:
    """The bullet chart: per dataset the share of its expert's gain that the composition recovers."""
    models = session.models
    if not models.data:
        return markup.message(
            "Choose a data folder under Models: one folder per dataset with a validation.jsonl of prompts and "
            "completions. Then the bars show how much of each expert's gain the composition recovers.",
            title="No validation data is open",
        )
    rows = markup.join(
        _row(place, name, reading.points.get(name))
        for place, name in _places(models.names, list(models.data))
    )
    line = Markup("")
    if (
        models.data_folder and reading.stage != "preview"
    ):  # a moving slider passes through recipes that nobody wants
        line = markup.command(
            commands.loss(session.save_recipe(reading.recipe), models.data_folder)
        )
    return Markup(
        '<section class="bullets {}" data-digest="{}" data-stage="{}" data-sizes="{}">'
        "<header><h2>Share of each expert’s gain, recovered</h2>{}</header>"
        '<div class="axis" aria-hidden="true"><span></span><div>{}</div><span class="num">share</span>'
        '<span class="num">loss</span></div>{}{}</section>{}'
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


def _places(vectors: list[str], datasets: list[str]) -> Iterator[tuple[int, str]]:
    """Each dataset with the place of its colour: its vector's, else one after them."""
    extra = len(vectors)
    for name in datasets:
        yield (vectors.index(name) if name in vectors else extra), name
        extra += name not in vectors


def _at(share: float) -> float:
    """Where a share stands on the chart, in per cent of its width."""
    low, high = AXIS
    return (min(max(share, low), high) - low) / (high - low) * 100


def _ticks() -> Markup:
    return markup.join(
        Markup('<i style="left:{}%">{}</i>').format(f"{_at(share):.2f}", label)
        for share, label in ((0.0, "base"), (0.5, "50 %"), (1.0, "expert"))
    )


def _row(place: int, name: str, point: LossOnAxis | None) -> Markup:
    if point is None:
        bar = Markup(
            '<div class="track"></div><span class="num share">…</span><span class="num loss">…</span>'
        )
        return Markup(
            '<div class="row waiting"><span class="who">{}<span>{}</span></span>{}</div>'
        ).format(markup.swatch(place), name, bar)
    row = gain(name, point.loss, point.base, point.expert)
    known = row.share is not None
    share, error = (row.share, row.share_stderr or 0.0) if row.share is not None else (0.0, 0.0)
    start, end = sorted((_at(0), _at(share)))
    low, high = _at(share - error), _at(share + error)
    beyond = "over" if share > AXIS[1] else "under" if share < AXIS[0] else ""
    drawing = (
        Markup(
            '<b style="left:{:.2f}%;width:{:.2f}%"></b><u style="left:{:.2f}%;width:{:.2f}%"></u>'
        ).format(start, end - start, low, high - low)
        if known
        else Markup("")
    )
    words = _in_words(row, point.quick)
    return Markup(
        '<div class="row {} {}" style="--c:var(--dataset-{})"><span class="who">{}<span title="{}">{}</span></span>'
        '<div class="track" role="img" aria-label="{}">{}</div>'
        '<span class="num share">{}</span><span class="num loss" title="base {}, expert {}">{}</span></div>'
    ).format(
        "quick" if point.quick else "full",
        beyond,
        place % 8,
        markup.swatch(place),
        name,
        name,
        words,
        drawing,
        Markup("<b>{}</b> <small>±{}</small>").format(units.percent(share), f"{error * 100:.0f}")
        if known
        else "—",
        units.number(row.base),
        units.number(row.expert) if row.expert is not None else "—",
        Markup("{} <small>±{}</small>").format(units.number(row.loss), units.number(row.stderr)),
    )


def _in_words(row: Gain, quick: bool) -> str:
    share = f"{units.percent(row.share)} of its expert's gain, " if row.share is not None else ""
    size = f"quick, {row.n} examples" if quick else f"{row.n} examples"
    return f"{row.dataset}: {share}loss {row.loss:.3f}, standard error {row.stderr:.3f}, {size}"


def _sizes(reading: Reading) -> Markup:
    """How many examples the bars stand on, and whether that is the quick subset."""
    points = list(reading.points.values())
    if not points:
        return Markup('<span class="sizes">composing…</span>')
    quick, n = any(point.quick for point in points), sum(point.loss.n for point in points)
    words = f"quick, n = {n}, refining" if quick else f"n = {n}"
    words = f"preview, n = {n}, exact at rest" if reading.stage == "preview" else words
    return Markup('<span class="sizes {}"><i></i>{}</span>').format(
        "quick" if quick else "full", words
    )


def _mean(points: Mapping[str, LossOnAxis]) -> Markup:
    """The mean over datasets, with its error; only once all are of one size."""
    if not points or len({point.quick for point in points.values()}) > 1:
        return Markup('<div class="mean"><span>mean of the datasets</span><b>…</b></div>')
    values = [point.loss for point in points.values()]
    mean = sum(value.value for value in values) / len(values)
    error = math.sqrt(sum(value.stderr**2 for value in values)) / len(values)
    n = sum(value.n for value in values)
    return Markup(
        '<div class="mean"><span>mean loss of {} datasets, nats per token</span>'
        "<b>{}</b><small>±{}</small><small>n = {}</small></div>"
    ).format(len(values), units.number(mean), units.number(error), n)
