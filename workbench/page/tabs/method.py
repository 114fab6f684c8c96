"""The merge method in the left column: its list, its formula and a field for each parameter."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from markupsafe import Markup

from workbench.page.tabs import markup
from workbench.page.tabs.wiring import QUIET
from workbench.session.session import Session
from workbench.session.standing import PLAIN, Choice, Standing, file_only_methods, live_methods

if TYPE_CHECKING:
    from merging.methods._values import Param

POOL = {"number": 6, "word": 4, "tick": 4}
"""Kind of field -> how many are created; a method shows one per parameter. See wiring.POOL."""


@dataclass(frozen=True)
class Picker:
    """The components that choose and show the merge method."""

    method: gr.Dropdown
    of: gr.Textbox
    """Name of the method whose fields are shown.

    It is updated together with the fields, so fields are never read as those of another method.
    """
    about: gr.HTML
    refused: gr.HTML
    """Why the last change was refused; empty if it was carried out."""
    members: gr.CheckboxGroup
    """Which vectors are merged, for methods that have no ω."""
    panel: gr.Accordion
    fields: dict[str, list[Any]]
    """Kind -> its fields, used and unused."""
    left_out: gr.HTML
    """Which methods the list leaves out, and where they run."""

    @property
    def fields_in_order(self) -> list[Any]:
        """The components whose values `read_choice` takes, in its order."""
        return [self.of, *(field for pool in self.fields.values() for field in pool)]

    @property
    def outputs(self) -> list[Any]:
        """The components that `picker_updates` writes, in its order."""
        return [
            self.method,
            self.about,
            self.panel,
            self.left_out,
            self.members,
            *self.fields_in_order,
        ]


def build_head() -> tuple[gr.Dropdown, gr.Textbox, gr.HTML, gr.HTML, gr.CheckboxGroup]:
    """Builds the part above the sliders: the first five components of a Picker."""
    method = gr.Dropdown([PLAIN.method], value=PLAIN.method, label="method", elem_id="method")
    about = gr.HTML(elem_id="method-about")
    of = gr.Textbox(
        PLAIN.method, visible="hidden", elem_id="method-of", label="method of the fields"
    )
    refused = gr.HTML(elem_id="refused")
    members = gr.CheckboxGroup([], label="vectors to merge", visible=False, elem_id="members")
    return method, of, about, refused, members


def build_fields() -> tuple[gr.Accordion, dict[str, list[Any]], gr.HTML]:
    """Builds the part below the sliders: the last three components of a Picker.

    Its height depends on the method; below the sliders it cannot move them.
    """
    with gr.Accordion("parameters", open=False, visible=False, elem_id="parameters") as panel:
        fields: dict[str, list[Any]] = {
            "number": [
                gr.Number(visible=False, label=f"number {n}") for n in range(POOL["number"])
            ],
            "word": [
                gr.Dropdown([], visible=False, label=f"word {n}") for n in range(POOL["word"])
            ],
            "tick": [gr.Checkbox(visible=False, label=f"tick {n}") for n in range(POOL["tick"])],
        }
        left_out = gr.HTML(elem_id="methods-elsewhere")
    for number in fields["number"]:
        number.input(None, None, None, js="() => window.dem.typed()", **QUIET)
        for event in (number.submit, number.blur):
            event(None, None, None, js="() => window.dem.entered()", **QUIET)
    for field in (*fields["word"], *fields["tick"]):
        field.input(None, None, None, js="() => window.dem.moved()", **QUIET)
    return panel, fields, left_out


def kind_of(param: Param) -> str:
    """Returns the kind of field of a parameter: word (a list), tick or number."""
    return "word" if param.choices else "tick" if param.type is bool else "number"


def parameters(method: str) -> dict[str, list[Param]]:
    """Returns the method's parameters by kind of field, each kind in their own order."""
    from merging.methods import _contract as methods

    params = [param for param in methods.load(method).parameters if not param.file]
    return {
        kind: [param for param in params if kind_of(param) == kind]
        for kind in ("number", "word", "tick")
    }


def read_choice(form: Sequence[Any]) -> Choice:
    """Returns the method and parameters that the fields show; `form` holds their values.

    Raises:
        RecipeError: if a field is empty or a value is out of range.
    """
    method, rest = form[0], list(form[1:])
    values: dict[str, Any] = {}
    for kind, params in parameters(method).items():
        pool, rest = rest[: POOL[kind]], rest[POOL[kind] :]
        values |= {param.name: value for param, value in zip(params, pool, strict=False)}
    return Choice.of(method, values)


def picker_updates(session: Session, standing: Standing) -> list[Any]:
    """Returns updates of `Picker.outputs` that show the method and parameters of a Standing."""
    from merging.methods import _contract as methods

    names = session.models.names
    choice = standing.choice
    weighted = methods.load(choice.method).weighted
    params = parameters(choice.method)
    every = [param for pool in params.values() for param in pool]
    missing = any(param.default is None and param.name not in choice.parameters for param in every)
    fields = [
        update
        for kind, pool in params.items()
        for update in [
            *(_field(param, choice.parameters) for param in pool),
            *_unused(kind, POOL[kind] - len(pool)),
        ]
    ]
    # A required parameter has no default: unfold the panel, because composing waits for it.
    unfolded = {"open": True} if missing else {}
    panel = gr.Accordion(f"parameters of {choice.method}", visible=bool(every), **unfolded)
    return [
        gr.Dropdown(live_methods(len(names)), value=choice.method),
        about_html(choice.method, live_methods(len(names))),
        panel,
        left_out_html(),
        gr.CheckboxGroup(
            names, value=nonzero_vectors(names, standing.omegas), visible=not weighted
        ),
        choice.method,
        *fields,
    ]


def nonzero_vectors(names: Sequence[str], omegas: Sequence[float]) -> list[str]:
    """Returns the names of the vectors whose ω is not 0."""
    return [name for name, omega in zip(names, omegas, strict=True) if omega]


def about_html(method: str, listed: Sequence[str]) -> Markup:
    """Returns the method's formula with notes on ω and on the number of vectors.

    The formulas of all listed methods are in a data attribute, for the page's script.
    """
    from merging.methods import _contract as methods

    least, most = methods.load(method).vectors
    notes = []
    if not methods.load(method).weighted:
        notes.append("This method has no ω: all ticked vectors count equally.")
    if most is not None or least > 1:
        count = (
            f"{'exactly' if most == least else 'at least'} {least} vector{'s' if least > 1 else ''}"
        )
        others = "; set ω of the others to 0" if methods.load(method).weighted else ""
        notes.append(f"It takes {count}{others}.")
    return Markup('<div class="about" data-formulas="{}"><p class="algebra">{}</p>{}</div>').format(
        json.dumps({name: methods.load(name).formula for name in listed}, ensure_ascii=False),
        methods.load(method).formula,
        markup.join(Markup("<p>{}</p>").format(note) for note in notes),
    )


def refusal_html(error: Exception, kept: str) -> Markup:
    """Returns why a change was refused, and the formula that stays."""
    return Markup("{}{}").format(
        markup.message(str(error), "problem", "Change refused"),
        Markup('<p class="kept">Still in use: {}</p>').format(kept),
    )


def _field(param: Param, values: Mapping[str, Any]) -> Any:
    """Returns the field of one parameter with its help and range."""
    value = values.get(param.name, param.default)
    info = [param.help]
    finite = not math.isinf(param.low)
    info += [f"{param.low:g} to {param.high:g}"] if finite else []
    info += ["same for all vectors"] if param.per_vector else []
    about = {"label": param.name, "info": "; ".join(info), "visible": True}
    match kind_of(param):
        case "word":
            return gr.Dropdown(list(param.choices), value=value, **about)
        case "tick":
            return gr.Checkbox(value=bool(value), **about)
    # No minimum and maximum: gradio would clip a value in silence; the engine refuses it instead.
    step = 1 if param.type is int else 0.05 if param.high - param.low <= 1 else 0.1
    return gr.Number(value=value, step=step, placeholder=info[1] if finite else None, **about)


def _unused(kind: str, count: int) -> list[Any]:
    empty = {"number": gr.Number, "word": gr.Dropdown, "tick": gr.Checkbox}[kind]
    return [empty(visible=False) for _ in range(count)]


def left_out_html() -> Markup:
    """Returns a note on the methods that the list leaves out."""
    return Markup(
        '<p class="quiet">Not listed: {}. They need statistics of each model. '
        "Run them with a recipe file and dem merge.</p>"
    ).format(" and ".join(file_only_methods()))
