"""The merge method of the left column: which one, its formula, and a field for each parameter of its signature."""

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
from workbench.session.standing import PLAIN, Choice, Standing, from_files_only, offered

if TYPE_CHECKING:
    from merging.methods._contract import Param

POOL = {"number": 6, "word": 4, "tick": 4}
"""Fields made in advance, by kind; as many as a method has parameters of that kind are shown. See common.POOL."""


@dataclass(frozen=True)
class Picker:
    """The components of the method."""

    method: gr.Dropdown
    of: gr.Textbox
    """The method whose fields are shown. They arrive on the page together, so one is never read with others' fields."""
    about: gr.HTML
    refused: gr.HTML
    """Why the last wish was not followed; empty where it was."""
    members: gr.CheckboxGroup
    """Which vectors take part, for methods without ω."""
    panel: gr.Accordion
    fields: dict[str, list[Any]]
    """Kind -> its pool."""
    elsewhere: gr.HTML
    """Which methods the list leaves out."""

    @property
    def form(self) -> list[Any]:
        """What `chosen` reads, in its order."""
        return [self.of, *(field for pool in self.fields.values() for field in pool)]

    @property
    def shown(self) -> list[Any]:
        """What `shown` writes, in its order."""
        return [self.method, self.about, self.panel, self.elsewhere, self.members, *self.form]


def build_head() -> tuple[gr.Dropdown, gr.Textbox, gr.HTML, gr.HTML, gr.CheckboxGroup]:
    """What stands above the sliders: the first fields of a Picker."""
    method = gr.Dropdown([PLAIN.method], value=PLAIN.method, label="method", elem_id="method")
    about = gr.HTML(elem_id="method-about")
    of = gr.Textbox(
        PLAIN.method, visible="hidden", elem_id="method-of", label="method of the fields"
    )
    refused = gr.HTML(elem_id="refused")
    members = gr.CheckboxGroup([], label="vectors that take part", visible=False, elem_id="members")
    return method, of, about, refused, members


def build_fields() -> tuple[gr.Accordion, dict[str, list[Any]], gr.HTML]:
    """What stands below the sliders, which therefore never move: the last fields of a Picker."""
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
        elsewhere = gr.HTML(elem_id="methods-elsewhere")
    for number in fields["number"]:
        number.input(None, None, None, js="() => window.dem.typed()", **QUIET)
        for event in (number.submit, number.blur):
            event(None, None, None, js="() => window.dem.entered()", **QUIET)
    for field in (*fields["word"], *fields["tick"]):
        field.input(None, None, None, js="() => window.dem.moved()", **QUIET)
    return panel, fields, elsewhere


def kind_of(param: Param) -> str:
    """The kind of field that a parameter has."""
    return "word" if param.choices else "tick" if param.type is bool else "number"


def parameters(method: str) -> dict[str, list[Param]]:
    """Kind of field -> the method's parameters of that kind, in their order."""
    from merging.methods import _contract as methods

    known = [param for param in methods.load(method).parameters if not param.file]
    return {
        kind: [param for param in known if kind_of(param) == kind]
        for kind in ("number", "word", "tick")
    }


def chosen(form: Sequence[Any]) -> Choice:
    """What the fields say.

    Raises:
        RecipeError: for an empty field or a value out of range.
    """
    method, rest = form[0], list(form[1:])
    values: dict[str, Any] = {}
    for kind, params in parameters(method).items():
        pool, rest = rest[: POOL[kind]], rest[POOL[kind] :]
        values |= {param.name: value for param, value in zip(params, pool, strict=False)}
    return Choice.of(method, values)


def shown(session: Session, standing: Standing) -> list[Any]:
    """Dropdown, words, fields and the vectors that take part, for what the page is to stand at; `Picker.shown`."""
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
    unfolded = {"open": True} if missing else {}
    panel = gr.Accordion(f"parameters of {choice.method}", visible=bool(every), **unfolded)
    return [
        gr.Dropdown(offered(len(names)), value=choice.method),
        about_html(choice.method, offered(len(names))),
        panel,
        elsewhere_html(),
        gr.CheckboxGroup(names, value=taking_part(names, standing.omegas), visible=not weighted),
        choice.method,
        *fields,
    ]


def taking_part(names: Sequence[str], omegas: Sequence[float]) -> list[str]:
    """The vectors whose ω is not 0."""
    return [name for name, omega in zip(names, omegas, strict=True) if omega]


def about_html(method: str, listed: Sequence[str]) -> Markup:
    """The method's formula, what is particular to it here, and for the page's script the formulas of the list."""
    from merging.methods import _contract as methods

    least, most = methods.load(method).vectors
    notes = []
    if not methods.load(method).weighted:
        notes.append("ω plays no part: the vectors that are ticked take part alike.")
    if most is not None or least > 1:
        count = (
            f"{'exactly' if most == least else 'at least'} {least} vector{'s' if least > 1 else ''}"
        )
        notes.append(
            f"It takes {count}{'; set ω of the others to 0' if methods.load(method).weighted else ''}."
        )
    return Markup('<div class="about" data-formulas="{}"><p class="algebra">{}</p>{}</div>').format(
        json.dumps({name: methods.load(name).formula for name in listed}, ensure_ascii=False),
        methods.load(method).formula,
        markup.join(Markup("<p>{}</p>").format(note) for note in notes),
    )


def refused_html(error: Exception, kept: str) -> Markup:
    """Why a wish was not followed, and what stays."""
    return Markup("{}{}").format(
        markup.message(str(error), "problem", "Not composed"),
        Markup('<p class="kept">{} stays.</p>').format(kept),
    )


def _field(param: Param, given: Mapping[str, Any]) -> Any:
    """The field of one parameter, with its help and its range."""
    value = given.get(param.name, param.default)
    info = [param.help]
    finite = not math.isinf(param.low)
    info += [f"{param.low:g} to {param.high:g}"] if finite else []
    info += ["the same for every vector"] if param.per_vector else []
    about = {"label": param.name, "info": "; ".join(info), "visible": True}
    match kind_of(param):
        case "word":
            return gr.Dropdown(list(param.choices), value=value, **about)
        case "tick":
            return gr.Checkbox(value=bool(value), **about)
    step = 1 if param.type is int else 0.05 if param.high - param.low <= 1 else 0.1
    return gr.Number(value=value, step=step, placeholder=info[1] if finite else None, **about)


def _unused(kind: str, count: int) -> list[Any]:
    empty = {"number": gr.Number, "word": gr.Dropdown, "tick": gr.Checkbox}[kind]
    return [empty(visible=False) for _ in range(count)]


def elsewhere_html() -> Markup:
    """The methods that the list leaves out."""
    return Markup(
        '<p class="quiet">{} need statistics of each model; they run from recipe files, by dem merge.</p>'
    ).format(" and ".join(from_files_only()))
