"""What the three questions of the tab Data have in common: fields that become settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from workbench.commands import display_path
from workbench.influence_runs.data_settings import Settings
from workbench.influence_runs.outlooks.data_outlook import DataOutlook
from workbench.session.session import Session


@dataclass(frozen=True)
class QuestionForm:
    """The fields of one question.

    Attributes:
        question: its name, as in data_settings.KINDS.
        fields: the components, in the order of `read`.
        read: makes settings of the fields' values; raises SessionError for a wrong one.
        fill: returns updates of the fields for settings, those of an earlier run.
        arrive: returns updates of the fields when the tab is shown, from their values: new lists
            to choose from, and a value where there is none.
        estimate: returns what settings will cost; the second argument is the name of the run.
    """

    question: str
    fields: Sequence[Any]
    read: Callable[..., Settings]
    fill: Callable[[Any], list[Any]]
    arrive: Callable[..., list[Any]]
    estimate: Callable[[Any, str], DataOutlook]


def folder_field(label: str, name: str) -> gr.Dropdown:
    """Builds a field for a folder: a list to choose from, and any other path may be typed."""
    return gr.Dropdown(
        [], label=label, elem_id=f"data-{name}", allow_custom_value=True, min_width=220
    )


def short(label: str, name: str, value: str = "", placeholder: str = "") -> gr.Textbox:
    """Builds a field for a number. A text field, so that a wrong one can be told and not lost."""
    return gr.Textbox(
        value, label=label, elem_id=f"data-{name}", placeholder=placeholder, min_width=110
    )


def models(session: Session) -> list[tuple[str, str]]:
    """Returns (label, path) of the models that the page may open."""
    folders = session.folders.models()
    return [(each.label, display_path(each.path)) for each in folders if each.kind == "model"]


def datasets(session: Session) -> list[tuple[str, str]]:
    """Returns (label, path) of the folders that hold <dataset>/validation.jsonl."""
    return [(each.label, display_path(each.path)) for each in session.folders.data()]


def choices(listed: list[tuple[str, str]], value: str | None, otherwise: str) -> Any:
    """Returns the update of a folder field: what is chosen or typed there stays."""
    if value:
        return gr.update(choices=listed)
    return gr.update(choices=listed, value=otherwise or (listed[0][1] if listed else None))


def open_data(session: Session) -> str:
    """Returns the data folder of the open models as the page shows it, or ""."""
    folder = session.models.data_folder if session.ready else None
    return display_path(folder) if folder else ""


def open_base(session: Session) -> str:
    """Returns the folder of the open base as the page shows it, or ""."""
    return display_path(session.models.base.path) if session.ready else ""
