"""The left column: the formula in force, the merge method, one slider per vector, presets, undo and redo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from workbench.errors import is_user_error
from workbench.page.tabs import formula_line as formula
from workbench.page.tabs import method
from workbench.page.tabs.method import Picker
from workbench.page.tabs.wiring import (
    LATEST,
    POOL,
    QUIET,
    current_recipe,
    omegas_of,
    with_error_dialog,
)
from workbench.session.history import History
from workbench.session.session import OMEGA_RANGE, Choice, Session, Standing

MOVED = "() => window.dem.moved()"


@dataclass(frozen=True)
class Pane:
    """The column's components that others read or write."""

    formula: gr.HTML
    picker: Picker
    column: gr.Column
    """Holds the sliders; hidden for methods without ω."""
    sliders: list[gr.Slider]
    alone: list[gr.Button]
    best: gr.Button
    history: gr.State
    undo: gr.Button
    redo: gr.Button
    settle: gr.Button
    """Pressed by the page's script when the sliders and fields came to rest,"""
    preview: gr.Button
    """and while an adapter's slider is moving."""
    number: gr.Number
    """Stands for the number that the script gives to each of the two."""

    @property
    def wish(self) -> list[Any]:
        """What `wished` reads, in its order."""
        return [*self.picker.form, *self.sliders]

    @property
    def stood(self) -> list[Any]:
        """What tells where the page stands: what `standing_shown` writes, in its order."""
        return [self.history, self.undo, self.redo, self.formula, self.picker.refused]


def build(session: Session) -> Pane:
    """The column. The slider pool is made once; `arrival` fills it."""
    low, high = OMEGA_RANGE
    line = gr.HTML(
        Markup('<div class="formula columns"><span class="theta">Θ</span></div>'), elem_id="formula"
    )
    head = method.build_head()
    with gr.Column(elem_id="sliders") as column:
        sliders = [
            gr.Slider(
                low, high, 0.0, step=0.01, label=f"ω {place}", visible=False, buttons=["reset"],
                elem_id=f"omega-{place}", elem_classes=_classes(place),
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
    gr.HTML(Markup('<p class="hint">Drag a slider and watch the bars.</p>'), elem_id="hint")
    picker = Picker(*head, *method.build_fields())
    history = gr.State(History())
    settle = gr.Button("settle", visible="hidden", elem_id="settle")
    preview = gr.Button("preview", visible="hidden", elem_id="preview")
    number = gr.Number(0, visible="hidden", label="number")
    pane = Pane(
        line, picker, column, sliders, alone, best, history, undo, redo, settle, preview, number
    )
    _wire_sliders(session, pane, {"base": base, "uniform": uniform, "best": best})
    _wire_method(session, pane)
    _wire_history(session, pane)
    return pane


def _classes(place: int, adapter: bool = False) -> list[str]:
    """A slider's colour, and whether the page's script asks for previews of its moves."""
    return ["omega", f"dataset-{place % 8}", *(["adapter"] if adapter else [])]


def _wire_sliders(session: Session, pane: Pane, presets: dict[str, gr.Button]) -> None:
    for place, slider in enumerate(pane.sliders):
        # change is the one event that every way of moving a slider fires: mouse, keys, number box, reset and server.
        # It starts the page's timer; when the sliders have come to rest the script presses `settle`, and until then
        # `preview`, where the slider is an adapter's.
        slider.change(None, None, None, js=f"() => window.dem.moved(undefined, {place})", **QUIET)

    def to(name: str) -> Any:
        def work() -> list[Any]:
            return at_preset(name)

        return with_error_dialog(work)

    def at_preset(name: str) -> list[Any]:
        omegas = session.preset(name)
        return [method.taking_part(session.models.names, omegas), *shown_omegas(omegas)]

    targets = [pane.picker.members, *pane.sliders]
    for name, button in presets.items():
        button.click(to(name), None, targets, queue=False, **QUIET)
    for place, button in enumerate(pane.alone):

        def only(place: int = place) -> list[Any]:
            return at_preset(f"only:{session.models.names[place]}")

        button.click(with_error_dialog(only), None, targets, queue=False, **QUIET)


def _wire_method(session: Session, pane: Pane) -> None:
    def pick(name: str, *values: float) -> list[Any]:
        at = Standing(omegas_of(session, values), Choice(name))
        return [*method.shown(session, at), sliders_shown(at)]

    def tick(members: list[str], history: History[Standing], *values: float) -> list[Any]:
        """A vector that is ticked again gets the ω that it had last."""
        omegas = list(omegas_of(session, values))
        before = [at.omegas for at in (history.present, *reversed(history.past)) if at]
        for place, name in enumerate(session.models.names):
            if name not in members:
                omegas[place] = 0.0
            elif not omegas[place]:
                omegas[place] = next(
                    (was[place] for was in before if place < len(was) and was[place]), 1.0
                )
        return shown_omegas(omegas)

    picker = pane.picker
    picked = picker.method.input(
        with_error_dialog(pick),
        [picker.method, *pane.sliders],
        [*picker.shown, pane.column],
        queue=False,
        **LATEST,
    )
    picked.then(None, None, None, js=MOVED, **QUIET)
    ticked = [picker.members, pane.history, *pane.sliders]
    picker.members.input(with_error_dialog(tick), ticked, pane.sliders, queue=False, **LATEST)


def _wire_history(session: Session, pane: Pane) -> None:
    def back(history: History[Standing], *wish: Any) -> list[Any]:
        """To what the page stands at, where a wish was refused or is not settled yet; else a step back."""
        try:
            pending = wished(session, wish) != history.present
        except Exception as error:
            if not is_user_error(error):
                raise
            pending = True
        return stepped(session, history if pending and history.present else history.undone())

    def forth(history: History[Standing]) -> list[Any]:
        return stepped(session, history.redone())

    targets = [pane.history, pane.undo, pane.redo, *pane.picker.shown, pane.column, *pane.sliders]
    for event in (
        pane.undo.click(
            with_error_dialog(back), [pane.history, *pane.wish], targets, queue=False, **LATEST
        ),
        pane.redo.click(with_error_dialog(forth), pane.history, targets, queue=False, **LATEST),
    ):
        event.then(None, None, None, js=MOVED, **QUIET)


def wished(session: Session, wish: Sequence[Any]) -> Standing:
    """What the fields and sliders say, in the order of `Pane.wish`.

    Raises:
        RecipeError: for a field that is empty or out of range.
    """
    form = len(wish) - POOL
    return Standing(omegas_of(session, wish[form:]), method.chosen(wish[:form]))


def settled(session: Session, history: History[Standing], wish: Sequence[Any]) -> list[Any]:
    """Move to what is wished, or say why not and stay; for `Pane.stood`."""
    kept = history if history.present else history.moved(session.standing)
    try:
        at = wished(session, wish)
        session.settle(at)
    except Exception as error:
        if not is_user_error(error):
            raise
        return standing_shown(session, kept, error)
    return standing_shown(session, history.moved(at))


def standing_shown(
    session: Session, history: History[Standing], error: Exception | None = None
) -> list[Any]:
    """The history with its buttons, and the formula of its present; with an error that kept the page there."""
    from merging.recipe.formula import formula

    return [
        *remembered(history, pending=error is not None),
        formula_shown(session, history),
        method.refused_html(error, formula(current_recipe(session, history)))
        if error
        else Markup(""),
    ]


def formula_shown(session: Session, history: History[Standing]) -> Markup:
    """The formula of where the page stands."""
    omegas = (history.present or session.standing).omegas
    return formula.formula_html(current_recipe(session, history), session.models.names, omegas)


def remembered(history: History[Standing], pending: bool = False) -> list[Any]:
    """The history, and its buttons, live only where there is a step; undoing what is pending is one."""
    return [
        history,
        gr.Button(interactive=bool(history.past) or pending),
        gr.Button(interactive=bool(history.future)),
    ]


def sliders_shown(at: Standing) -> gr.Column:
    """The sliders' column, hidden where ω plays no part; the page's script reads it all the same."""
    from merging.methods import _contract as methods

    return gr.Column(visible=True if methods.load(at.choice.method).weighted else "hidden")


def shown_omegas(omegas: Sequence[float]) -> list[Any]:
    """Values for the whole pool."""
    return [*omegas, *[gr.skip()] * (POOL - len(omegas))]


def stepped(session: Session, history: History[Standing]) -> list[Any]:
    """After undo or redo: the history, the fields and the sliders. Settling them shows the rest, all of it at once."""
    return [*remembered(history), *placed(session, history.present or session.standing)]


def placed(session: Session, at: Standing) -> list[Any]:
    """The fields and sliders at a place; for `Picker.shown`, the sliders' column and the sliders."""
    return [*method.shown(session, at), sliders_shown(at), *shown_omegas(at.omegas)]


def arrival(session: Session) -> list[Any]:
    """Sliders, buttons and the method for what is open: visible, named, as they were settled last."""
    models, at = session.models, session.standing
    count = min(POOL, len(models.names))
    sliders = [
        gr.Slider(
            visible=True,
            label=models.names[place],
            value=at.omegas[place],
            elem_classes=_classes(place, models.names[place] in models.adapters),
        )
        if place < count
        else gr.Slider(visible=False, value=0.0)
        for place in range(POOL)
    ]
    alone = [
        gr.Button(models.names[place], visible=True) if place < count else gr.Button(visible=False)
        for place in range(POOL)
    ]
    fields = [*method.shown(session, at), sliders_shown(at)]
    return [*sliders, *alone, gr.Button(visible=models.best is not None), History(), *fields]
