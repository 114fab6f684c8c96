"""The form of the question which training examples are in the wrong place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from workbench.commands import display_path
from workbench.influence_runs.data_settings import MisfiledSettings
from workbench.influence_runs.outlooks.data_outlook import DataOutlook
from workbench.jobs import data_questions
from workbench.page.tabs.data import field_values as values
from workbench.page.tabs.data import form
from workbench.page.tabs.data.form import QuestionForm, short
from workbench.session.session import Session

if TYPE_CHECKING:
    from corpus import Record


def build(session: Session) -> QuestionForm:
    """Builds the fields. The base and the experts are those that are open."""
    gr.HTML(
        '<p class="facts-line">Asked of the open models: the base, and the expert of each dataset.'
        " The folder holds what each expert was trained on, by the expert's name.</p>"
    )
    with gr.Row(elem_classes="data-fields wide"):
        data = form.folder_field("Data: folder with EXPERT/train.jsonl", "misfiled-data")
    with gr.Row(elem_classes="data-fields"):
        split = short("Split", "misfiled-split", "train")
        limit = short("Examples per dataset", "misfiled-limit", "", "all")
    fields = [data, split, limit]

    def arrive(data: str | None, *_: Any) -> list[Any]:
        listed = form.datasets(session)
        return [form.choices(listed, data, form.open_data(session)), gr.skip(), gr.skip()]

    def read(data: str | None, split: str, limit: str) -> MisfiledSettings:
        from merging.recipe import recipe_yaml

        folder = values.folder(data, "Data")
        name = values.name_of_split(split, "Split")
        most = values.optional_whole(limit, "Examples per dataset", 2)
        # Only which models it names counts; their ω do not.
        recipe = session.recall("")
        return MisfiledSettings(recipe_yaml(recipe), folder, name, most)

    def fill(settings: MisfiledSettings) -> list[Any]:
        limit = "" if settings.limit is None else str(settings.limit)
        return [display_path(settings.data), settings.split, limit]

    def estimate(settings: MisfiledSettings, name: str) -> DataOutlook:
        from workbench.influence_runs.outlooks.misfiled_outlook import misfiled_outlook

        return misfiled_outlook(session.recall(""), _records(session, settings))

    return QuestionForm("misfiled", fields, read, fill, arrive, estimate)


def _records(session: Session, settings: MisfiledSettings) -> dict[str, list[Record]]:
    from corpus import read_datasets

    data_questions.check(session, settings)
    read = read_datasets(settings.data, settings.split)
    return {name: records[: settings.limit] for name, records in read.items()}
