"""The left column: current formula, merge method, one ω slider per vector, presets, undo, redo."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from workbench.errors import is_user_error
from workbench.page.tabs import formula_line, method
from workbench.page.tabs.method import Picker
from workbench.page.tabs.wiring import (
    LATEST,
    POOL,
    QUIET,
    Updates,
    current_recipe,
    omegas_of,
    with_error_dialog,
)
from workbench.session.history import History
from workbench.session.session import OMEGA_RANGE, Choice, Session, Standing

MOVED = "() => window.dem.moved()"
"""Tells the page's script that a control has changed; it settles the page after a short rest."""


@dataclass(frozen=True)
class Pane:
    """The components of the column that other parts of the page read or write."""

    formula: gr.HTML
    picker: Picker
    column: gr.Column
    """Contains the sliders; hidden for methods that have no ω."""
    sliders: list[gr.Slider]
    alone: list[gr.Button]
    """One button per vector: sets its ω to 1 and all others to 0."""
    best: gr.Button
    history: gr.State
    undo: gr.Button
    redo: gr.Button
    settle: gr.Button
    """Hidden button that the page's script presses when sliders and fields have come to rest."""
    preview: gr.Button
    """Hidden button that the page's script presses while a LoRA adapter's slider is moving."""
    number: gr.Number
    """Placeholder of the request number that the script sends with settle and preview."""

    @property
    def inputs(self) -> list[Any]:
        """The components whose values `read_standing` takes, in its order."""
        return [*self.picker.fields_in_order, *self.sliders]

    @property
    def standing_outputs(self) -> list[Any]:
        """The components that show the current Standing; `standing_updates` writes them."""
        return [self.history, self.undo, self.redo, self.formula, self.picker.refused]


def build(session: Session) -> Pane:
    """Builds the column with all POOL sliders; `arrival_updates` shows and names those in use."""
    low, high = OMEGA_RANGE
    line = gr.HTML(
        Markup('<div class="formula columns"><span class="theta">Θ</span></div>'), elem_id="formula"
    )
    head = method.build_head()
    with gr.Column(elem_id="sliders") as column:
        sliders = [
            gr.Slider(
                low, high, 0.0, step=0.01, label=f"ω {index}", visible=False, buttons=["reset"],
                elem_id=f"omega-{index}", elem_classes=_classes(index),
            )
            for index in range(POOL)
        ]  # fmt: skip
    with gr.Row(elem_id="presets"):
        base = gr.Button("base", size="sm", elem_id="preset-base")
        uniform = gr.Button("uniform", size="sm", elem_id="preset-uniform")
        best = gr.Button("best", size="sm", elem_id="preset-best")
        undo = gr.Button("undo", size="sm", elem_id="undo", interactive=False)
        redo = gr.Button("redo", size="sm", elem_id="redo", interactive=False)
    with gr.Row(elem_id="alone"):
        gr.HTML(Markup('<span class="label">use only</span>'), elem_id="alone-label")
        alone = [gr.Button(f"only {index}", size="sm", visible=False) for index in range(POOL)]
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


def _classes(index: int, adapter: bool = False) -> list[str]:
    """Returns a slider's CSS classes: its colour, and `adapter` if its moves are previewed."""
    return ["omega", f"dataset-{index % 8}", *(["adapter"] if adapter else [])]


def _wire_sliders(session: Session, pane: Pane, presets: dict[str, gr.Button]) -> None:
    for index, slider in enumerate(pane.sliders):
        # `change` is the only event that every way of moving a slider fires: mouse, keys, number
        # box, reset and server. It starts the script's timer. The script presses `settle` when the
        # sliders are at rest, and `preview` until then if the slider is an adapter's.
        slider.change(None, None, None, js=f"() => window.dem.moved(undefined, {index})", **QUIET)

    def move_to(preset: str) -> list[Any]:
        omegas = session.preset(preset)
        return [method.nonzero_vectors(session.models.names, omegas), *slider_values(omegas)]

    def move_to_only(index: int) -> list[Any]:
        return move_to(f"only:{session.models.names[index]}")

    targets = [pane.picker.members, *pane.sliders]
    work: Callable[[], list[Any]]
    for preset, button in presets.items():
        work = functools.partial(move_to, preset)
        button.click(with_error_dialog(work), None, targets, queue=False, **QUIET)
    for index, button in enumerate(pane.alone):
        work = functools.partial(move_to_only, index)
        button.click(with_error_dialog(work), None, targets, queue=False, **QUIET)


def _wire_method(session: Session, pane: Pane) -> None:
    def pick(name: str, *values: float) -> list[Any]:
        standing = Standing(omegas_of(session, values), Choice(name))
        return [*method.picker_updates(session, standing), sliders_column(standing)]

    def tick(members: list[str], history: History[Standing], *values: float) -> list[Any]:
        """Sets unticked vectors to ω = 0; gives ticked ones their last nonzero ω, or 1."""
        omegas = list(omegas_of(session, values))
        earlier = [past.omegas for past in (history.present, *reversed(history.past)) if past]
        for index, name in enumerate(session.models.names):
            if name not in members:
                omegas[index] = 0.0
            elif not omegas[index]:
                omegas[index] = next(
                    (past[index] for past in earlier if index < len(past) and past[index]), 1.0
                )
        return slider_values(omegas)

    picker = pane.picker
    inputs, targets = [picker.method, *pane.sliders], [*picker.outputs, pane.column]
    picked = picker.method.input(with_error_dialog(pick), inputs, targets, queue=False, **LATEST)
    picked.then(None, None, None, js=MOVED, **QUIET)
    ticked = [picker.members, pane.history, *pane.sliders]
    picker.members.input(with_error_dialog(tick), ticked, pane.sliders, queue=False, **LATEST)


def _wire_history(session: Session, pane: Pane) -> None:
    def undo(history: History[Standing], *values: Any) -> list[Any]:
        """Resets the controls if their change is refused or not settled yet; else steps back."""
        try:
            pending = read_standing(session, values) != history.present
        except Exception as error:
            if not is_user_error(error):
                raise
            pending = True
        return step_updates(session, history if pending and history.present else history.undone())

    def redo(history: History[Standing]) -> list[Any]:
        return step_updates(session, history.redone())

    inputs = [pane.history, *pane.inputs]
    targets = [pane.history, pane.undo, pane.redo, *pane.picker.outputs, pane.column, *pane.sliders]
    for event in (
        pane.undo.click(with_error_dialog(undo), inputs, targets, queue=False, **LATEST),
        pane.redo.click(with_error_dialog(redo), pane.history, targets, queue=False, **LATEST),
    ):
        event.then(None, None, None, js=MOVED, **QUIET)


def read_standing(session: Session, values: Sequence[Any]) -> Standing:
    """Returns the Standing that the controls show; `values` are those of `Pane.inputs`.

    Raises:
        RecipeError: if a field is empty or out of range.
    """
    fields = len(values) - POOL
    return Standing(omegas_of(session, values[fields:]), method.read_choice(values[:fields]))


def settle(
    session: Session, history: History[Standing], values: Sequence[Any]
) -> tuple[History[Standing], Exception | None]:
    """Moves the session to the Standing that the controls show.

    Returns the new history and None; or, if the move is refused, the old history and the error.
    """
    kept = history if history.present else history.moved(session.standing)
    try:
        standing = read_standing(session, values)
        session.settle(standing)
    except Exception as error:
        if not is_user_error(error):
            raise
        return kept, error
    return history.moved(standing), None


def standing_updates(
    session: Session, pane: Pane, history: History[Standing], error: Exception | None = None
) -> Updates:
    """Returns updates of `Pane.standing_outputs` for the present Standing of `history`.

    An `error` that refused the last change of the controls is shown beside it.
    """
    from merging.recipe.formula import formula

    _, undo, redo = history_updates(history, pending=error is not None)
    refusal = Markup("")
    if error:
        refusal = method.refusal_html(error, formula(current_recipe(session, history)))
    return {
        pane.history: history,
        pane.undo: undo,
        pane.redo: redo,
        pane.formula: current_formula(session, history),
        pane.picker.refused: refusal,
    }


def current_formula(session: Session, history: History[Standing]) -> Markup:
    """Returns the formula of the current recipe as HTML."""
    omegas = (history.present or session.standing).omegas
    return formula_line.formula_html(current_recipe(session, history), session.models.names, omegas)


def history_updates(history: History[Standing], pending: bool = False) -> list[Any]:
    """Returns updates of history, undo and redo.

    A button is active only if there is a step. With `pending`, resetting the controls is one.
    """
    return [
        history,
        gr.Button(interactive=bool(history.past) or pending),
        gr.Button(interactive=bool(history.future)),
    ]


def sliders_column(standing: Standing) -> gr.Column:
    """Returns an update of the sliders' column, which is hidden for methods that have no ω."""
    from merging.methods import _contract as methods

    # "hidden" and not False: the page's script reads the sliders also while nobody sees them.
    return gr.Column(visible=True if methods.load(standing.choice.method).weighted else "hidden")


def slider_values(omegas: Sequence[float]) -> list[Any]:
    """Returns updates of all POOL sliders; unused ones stay as they are."""
    return [*omegas, *[gr.skip()] * (POOL - len(omegas))]


def step_updates(session: Session, history: History[Standing]) -> list[Any]:
    """Returns updates after undo or redo: history, undo, redo, then `controls_at`.

    Formula and losses are not among them. Settling the controls shows those together.
    """
    return [*history_updates(history), *controls_at(session, history.present or session.standing)]


def controls_at(session: Session, standing: Standing) -> list[Any]:
    """Returns updates of method fields, sliders' column and sliders, to show `standing`."""
    return [
        *method.picker_updates(session, standing),
        sliders_column(standing),
        *slider_values(standing.omegas),
    ]


def arrival_updates(session: Session, pane: Pane) -> Updates:
    """Returns updates of the column for the open models, at the Standing that was settled last."""
    models, standing = session.models, session.standing
    updates: Updates = {
        **dict.fromkeys(pane.sliders, gr.Slider(visible=False, value=0.0)),
        **dict.fromkeys(pane.alone, gr.Button(visible=False)),
        pane.best: gr.Button(visible=models.best is not None),
        pane.history: History(),
        pane.column: sliders_column(standing),
    }
    for index, name in enumerate(models.names[:POOL]):
        updates[pane.sliders[index]] = gr.Slider(
            visible=True,
            label=name,
            value=standing.omegas[index],
            elem_classes=_classes(index, name in models.adapters),
        )
        updates[pane.alone[index]] = gr.Button(name, visible=True)
    picker = method.picker_updates(session, standing)
    return updates | dict(zip(pane.picker.outputs, picker, strict=True))
