"""Compose: the bars, the answer to a prompt, and another model's answer beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
from markupsafe import Markup

from corpus.prompts import Prompt
from plumbing import units
from workbench.line.continuation import asked_of, continuation
from workbench.page.tabs import component
from workbench.page.tabs.wiring import EVERY_CHANGE, QUIET, Board, Updates, with_error_dialog
from workbench.session.session import Session, Stale

ASK = "(text) => { window.dem.line.event({ type: 'prompt', text: text || '' }); }"
"""Hands the prompt to the live line, whose answers follow the sliders."""

ASK_BESIDE = "(text, which, plain) => [text, which, window.dem.line.state.plain]"
"""Asks the other model in the same form: the live line knows what the switch says."""


def build(session: Session, board: Board, boot: gr.Timer) -> None:
    """Builds the bars and the two answers; `boot` ticks until models are open."""
    with gr.Row(elem_id="compose"):
        with gr.Column(scale=5, min_width=320, elem_id="bullets"):
            component.live("bars", elem_id="chart")
        with gr.Column(scale=3, min_width=300, elem_id="ask"):
            gr.HTML(Markup("<h2>Try a prompt</h2>"))
            examples = gr.Dropdown([], label="Example prompts", elem_id="examples")
            prompt = gr.Textbox(
                label="Prompt",
                lines=3,
                max_lines=8,
                elem_id="prompt",
                placeholder="Enter a prompt. The answer follows the sliders.",
                container=False,
            )
            # The switch to plain text is drawn by the live line; this carries it to answer B.
            component.live("form", elem_id="ask-form")
            plain = gr.Checkbox(visible="hidden", elem_id="plain", label="plain text")
            send = gr.Button("Ask", variant="primary", size="sm", elem_id="send")
            gr.HTML(Markup('<h3><span class="ab">A</span> this composition</h3>'))
            component.live("answer", elem_id="answer-a")
            with gr.Row(elem_id="b-row"):
                gr.HTML(Markup('<h3><span class="ab">B</span> compare with</h3>'))
                other = gr.Dropdown(
                    ["base"], value="base", label="Compare with", elem_id="b-model", container=False
                )
            answer_b = gr.HTML(answer_html("", ""), elem_id="answer-b")

    def answer_other(prompt: str, which: str, plain: bool, request: gr.Request) -> Iterator[Any]:
        # What stands here answers another question, or the same in another form.
        stale = session.tickets.ticket(f"{request.session_hash}:b")
        yield answer_html("", "")
        if not prompt.strip():
            return
        recipe = session.recipe(
            session.models.preset("base" if which == "base" else f"only:{which}")
        )
        yield from stream_answer_html(session, recipe, (prompt, plain), stale)

    def arrive() -> Updates:
        if not session.ready:
            return {boot: gr.Timer(active=not session.opened.is_set())}
        prompts = [
            (label(name, prompt), prompt.text)
            for name, data in session.models.data.items()
            for prompt in data.prompts[:3]
        ]
        first = prompts[0][1] if prompts else None
        return {
            examples: gr.Dropdown(prompts, value=first, visible=bool(prompts)),
            other: gr.Dropdown(["base", *session.models.names], value="base"),
            boot: gr.Timer(active=False),
        }

    wire = {"concurrency_limit": 4, **EVERY_CHANGE}
    for event in (send.click, prompt.submit):
        event(None, prompt, None, js=ASK, **QUIET)
    gr.on(
        [send.click, prompt.submit, other.change],
        with_error_dialog(answer_other),
        [prompt, other, plain],
        answer_b,
        js=ASK_BESIDE,
        **wire,
    )
    filled = examples.change(lambda text: text or "", examples, prompt, **EVERY_CHANGE)
    filled.then(None, prompt, None, js=ASK, **QUIET)
    asked = [prompt, other, plain]
    filled.then(with_error_dialog(answer_other), asked, answer_b, js=ASK_BESIDE, **wire)
    for event, mode in ((boot.tick, QUIET), (board.opened.change, EVERY_CHANGE)):
        event(with_error_dialog(arrive), None, [examples, other, boot], **mode)


def label(dataset: str, prompt: Prompt) -> str:
    """Returns how the list of examples names a prompt, in one line."""
    text = prompt.text if len(prompt.text) < 70 else prompt.text[:69] + "…"
    before = f" (after {units.counted(prompt.before, 'message')})" if prompt.before else ""
    return f"{dataset}: {text}{before}"


def stream_answer_html(
    session: Session, recipe: Any, question: tuple[str, bool], stale: Stale
) -> Iterator[Markup]:
    """Yields the growing answer as HTML, with token count, time, and how it was asked.

    Args:
        session: the session.
        recipe: the composition that answers.
        question: the prompt, and whether it is sent as plain text.
        stale: True once the page has asked something newer.
    """
    begin, text, count = time.monotonic(), "", 0
    models = session.models
    asked = asked_of(models, *question)
    pieces = continuation(session, models, recipe, asked, stale=stale, gives_way=True)

    def said() -> str:
        spent = units.seconds(time.monotonic() - begin)
        return f"{units.counted(count, 'token')} in {spent} · asked {asked.form}"

    for piece in pieces:
        text, count = text + piece, count + 1
        yield answer_html(text, said(), growing=True)
    if not stale():
        shown = text if text.strip() else "(empty answer)"
        yield answer_html(shown, f"{said()} · recipe {recipe.digest}")


def answer_html(text: str, note: str, growing: bool = False) -> Markup:
    """Returns one answer as HTML, with a note below it."""
    return Markup(
        '<div class="answer{}" aria-live="polite"><pre tabindex="0">{}</pre><small>{}</small></div>'
    ).format(" growing" if growing else "", text.lstrip(), note)
