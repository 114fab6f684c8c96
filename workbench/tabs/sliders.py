"""The left column: the formula in force, one slider per vector, presets, undo and redo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from workbench.history import History
from workbench.session import OMEGA_RANGE, Session
from workbench.tabs import markup
from workbench.tabs.common import POOL, QUIET, omegas_of, told


@dataclass(frozen=True)
class Pane:
    """The column's components that others read or write."""

    formula: gr.HTML
    sliders: list[gr.Slider]
    alone: list[gr.Button]
    best: gr.Button
    history: gr.State
    settle: gr.Button
    hint: gr.HTML


def formula_html(names: list[str], omegas: tuple[float, ...], method: str = "") -> Markup:
    """Θ + 0.70·Δcot …: every vector keeps its place, so that nothing jumps; those at zero are dimmed."""
    terms = markup.join(
        Markup(
            '<span class="term{}" data-term="{}"><span class="sign">{}</span><b>{}</b>·Δ<span class="name">{}</span></span>'
        ).format(
            " zero" if omega == 0 else "",
            place,
            markup.MINUS if omega < 0 else "+",
            markup.omega(abs(omega)),
            name,
        )
        for place, (name, omega) in enumerate(zip(names, omegas, strict=True))
    )
    facts = Markup('<div class="facts"><span>{}, computed in float32</span></div>').format(method.replace("_", " "))
    return Markup('<div class="formula" data-omegas="{}"><span class="theta">Θ</span>{}</div>{}').format(
        " ".join(f"{omega:g}" for omega in omegas), terms, facts if method else ""
    )


def build(session: Session) -> Pane:
    """The column. The slider pool is made once; `arrival` fills it."""
    low, high = OMEGA_RANGE
    formula = gr.HTML(Markup('<div class="formula"><span class="theta">Θ</span></div>'), elem_id="formula")
    with gr.Column(elem_id="sliders"):
        sliders = [
            gr.Slider(
                low, high, 0.0, step=0.01, label=f"ω {place}", visible=False, buttons=["reset"],
                elem_id=f"omega-{place}", elem_classes=["omega", f"dataset-{place % 8}"],
            )
            for place in range(POOL)
        ]  # fmt: skip
    with gr.Row(elem_id="presets"):
        base = gr.Button("base", size="sm", elem_id="preset-base")
        uniform = gr.Button("uniform", size="sm", elem_id="preset-uniform")
        best = gr.Button("best", size="sm", elem_id="preset-best")
        undo = gr.Button("undo", size="sm", elem_id="undo", interactive=False)
        redo = gr.Button("redo", size="sm", elem_id="redo", interactive=False)
    with gr.Row(elem_id="alone"):
        gr.HTML(Markup('<span class="label">one alone</span>'), elem_id="alone-label")
        alone = [gr.Button(f"only {place}", size="sm", visible=False) for place in range(POOL)]
    hint = gr.HTML(Markup('<p class="hint">Drag a slider and watch the bars.</p>'), elem_id="hint")
    history = gr.State(History())
    settle = gr.Button("settle", visible="hidden", elem_id="settle")
    pane = Pane(formula, sliders, alone, best, history, settle, hint)
    _wire(session, pane, {"base": base, "uniform": uniform, "best": best}, undo, redo)
    return pane


def _wire(session: Session, pane: Pane, presets: dict[str, gr.Button], undo: gr.Button, redo: gr.Button) -> None:
    for slider in pane.sliders:
        # change is the one event that every way of moving a slider fires: mouse, keys, number box, reset and server.
        # It only starts the page's timer; when the sliders have come to rest the script presses `settle`.
        slider.change(None, None, None, js="() => window.dem.moved()", **QUIET)

    def to(name: str) -> Any:
        def work() -> list[Any]:
            return shown_omegas(session.preset(name))

        return told(work)

    for name, button in presets.items():
        button.click(to(name), None, pane.sliders, queue=False, **QUIET)
    for place, button in enumerate(pane.alone):

        def only(place: int = place) -> list[Any]:
            return shown_omegas(session.preset(f"only:{session.models.names[place]}"))

        button.click(told(only), None, pane.sliders, queue=False, **QUIET)

    def back(history: History) -> list[Any]:
        return stepped(history.undone())

    def forth(history: History) -> list[Any]:
        return stepped(history.redone())

    targets = [pane.history, undo, redo, *pane.sliders]
    undo.click(told(back), pane.history, targets, queue=False, **QUIET)
    redo.click(told(forth), pane.history, targets, queue=False, **QUIET)

    def remember(history: History, *values: float) -> list[Any]:
        if not session.ready:
            return [gr.skip()] * 3
        now = history.moved(omegas_of(session, values))
        return [now, *arrows(now)]

    pane.settle.click(told(remember), [pane.history, *pane.sliders], [pane.history, undo, redo], queue=False, **QUIET)


def shown_omegas(omegas: tuple[float, ...]) -> list[Any]:
    """Values for the whole pool."""
    return [*omegas, *[gr.skip()] * (POOL - len(omegas))]


def arrows(history: History) -> list[Any]:
    """Undo and redo are live only where there is a step."""
    return [gr.Button(interactive=bool(history.past)), gr.Button(interactive=bool(history.future))]


def stepped(history: History) -> list[Any]:
    """After undo or redo: the history, its buttons and the sliders."""
    return [history, *arrows(history), *shown_omegas(history.present)]


def arrival(session: Session) -> list[Any]:
    """Sliders and the buttons below for what is open: visible, named, at the last settled ω."""
    models = session.models
    count = min(POOL, len(models.names))
    sliders = [
        gr.Slider(visible=True, label=models.names[place], value=session.omegas[place])
        if place < count
        else gr.Slider(visible=False, value=0.0)
        for place in range(POOL)
    ]
    alone = [
        gr.Button(models.names[place], visible=True) if place < count else gr.Button(visible=False)
        for place in range(POOL)
    ]
    return [*sliders, *alone, gr.Button(visible=models.best is not None), History()]
