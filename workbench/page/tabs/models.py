"""Models: shows the open models, and opens others from the allowed folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from plumbing import units
from workbench import commands
from workbench.errors import is_user_error
from workbench.page.tabs import markup
from workbench.page.tabs.wiring import (
    EVERY_CHANGE,
    QUIET,
    UNEXPECTED,
    Board,
    Updates,
    log,
    opens_models,
)
from workbench.session.folders import ModelFolder
from workbench.session.memory import stored_bytes
from workbench.session.session import Session

VOCABULARIES = [
    ("refuse and show the differences", "refuse"),
    ("keep the base's embeddings and head", "base"),
]
"""Label -> `dem.vocabulary`. "union" is not offered: it grows the model, so it needs a recipe."""


def build(session: Session, board: Board, tab: gr.Tab, opened: Callable[[], str]) -> None:
    """Builds the tab. `opened` returns a new value of `board.opened`; the page follows it."""
    now = gr.HTML(elem_id="open-models")
    gr.HTML(Markup("<h2>Open other models</h2>"))
    with gr.Row():
        base = gr.Dropdown([], label="Base model", elem_id="pick-base")
        data = gr.Dropdown([], label="Validation data (optional)", elem_id="pick-data")
    checkpoints = gr.Dropdown(
        [],
        label="Fine-tuned checkpoints and LoRA adapters",
        multiselect=True,
        elem_id="pick-checkpoints",
    )
    vocabulary = gr.Dropdown(
        VOCABULARIES,
        value="refuse",
        label="If a vocabulary differs from the base's",
        elem_id="pick-vocabulary",
    )
    with gr.Row(elem_id="open-row"):
        go = gr.Button("Open", variant="primary", size="sm", elem_id="open")
        refresh = gr.Button("Refresh the lists", size="sm", elem_id="refresh")
    report = gr.HTML(elem_id="open-report")
    line = gr.HTML(elem_id="inspect-line")

    def arrive() -> list[Any]:
        return [models_html(session), *choices(session), inspect_line(session)]

    def refresh_lists() -> list[Any]:
        return choices(session)

    def open_chosen(
        base: str | None, chosen: list[str] | None, data: str | None, vocabulary: str
    ) -> Iterator[Updates]:
        if not base or not chosen:
            text = "Choose a base and at least one checkpoint that was fine-tuned from it."
            yield {report: markup.message(text, "problem", "Nothing was opened")}
            return
        count = units.counted(len(chosen), "checkpoint")
        text = f"Reading {commands.display_path(base)} and {count}."
        yield {report: markup.message(text, title="Opening")}
        try:
            session.open(base, [(path, None) for path in chosen], data or None, vocabulary)
        except Exception as error:
            if not is_user_error(error):
                log.exception("opening failed")
            text = str(error) if is_user_error(error) else UNEXPECTED
            kept = "The models from before are still open." if session.ready else ""
            text = f"{text}\n{kept}".strip()
            yield {report: markup.message(text, "problem", "Nothing was opened")}
            return
        text = "1 vector is" if len(chosen) == 1 else f"{len(chosen)} vectors are"
        yield {
            report: markup.message(f"{text} on the sliders.", "done", "Open"),
            now: models_html(session),
            line: inspect_line(session),
            board.opened: opened(),
        }

    tab.select(arrive, None, [now, base, checkpoints, data, line], **QUIET)
    board.opened.change(
        lambda: [models_html(session), inspect_line(session)], None, [now, line], **EVERY_CHANGE
    )
    refresh.click(refresh_lists, None, [base, checkpoints, data], **QUIET)
    asked = [base, checkpoints, data, vocabulary]
    opens_models(go, open_chosen, asked, [report, now, line, board.opened])


def choices(session: Session) -> list[Any]:
    """Returns updates of the three lists, in which the open models and data are chosen."""
    model_folders = session.folders.models()
    data_folders = session.folders.data()
    models = session.models if session.ready else None

    def label(folder: ModelFolder) -> str:
        return f"{folder.label}  (LoRA adapter)" if folder.kind == "adapter" else folder.label

    bases = [(folder.label, str(folder.path)) for folder in model_folders if folder.kind == "model"]
    every = [(label(folder), str(folder.path)) for folder in model_folders]
    open_now = [str(Path(path).resolve()) for path in models.checkpoints] if models else []
    listed = {path for _, path in every}
    data = str(models.data_folder) if models and models.data_folder else None
    return [
        gr.Dropdown(bases, value=str(models.base.path.resolve()) if models else None),
        gr.Dropdown(every, value=[path for path in open_now if path in listed]),
        gr.Dropdown(
            [("none", ""), *[(folder.label, str(folder.path)) for folder in data_folders]],
            value=data or "",
        ),
    ]


def models_html(session: Session) -> Markup:
    """Returns the table of open models with notes, or how to open some."""
    if not session.ready:
        text = session.problem or "Choose a base and checkpoints below."
        return markup.message(text, "problem" if session.problem else "note", "No models are open")
    models = session.models
    rows: list[list[object]] = [
        [
            "Θ",
            "base",
            "full",
            units.size(models.base.nbytes),
            models.base.digest[:12],
            commands.display_path(models.base.path),
        ]
    ]
    for index, (name, vector) in enumerate(models.vectors.items()):
        rank = getattr(vector, "rank", None)
        kind = f"LoRA, rank {rank}" if rank else "full"
        who = Markup('<span class="who">{}<span>{}</span></span>').format(
            markup.swatch(index), name
        )
        size = units.size(stored_bytes(vector))
        rows.append(
            [
                f"Δ{index + 1}",
                who,
                kind,
                size,
                vector.digest[:12],
                commands.display_path(vector.path or ""),
            ]
        )
    table = markup.table(
        ["symbol", "name", "kind", "size", "digest", "folder"],
        rows,
        numeric=[3],
        label="Open models",
    )
    data = commands.display_path(models.data_folder) if models.data_folder else "none"
    facts = Markup('<p class="facts-line">weights {} · validation data {} · {}</p>').format(
        models.memory,
        data,
        ", ".join(
            f"{name} {entry.prepared['full'].datasets[0].n}" for name, entry in models.data.items()
        ),
    )
    notes = markup.join(markup.message(note, "warning") for note in models.notes)
    return Markup("<h2>Open models</h2>{}{}{}").format(table, facts, notes)


def inspect_line(session: Session) -> Markup:
    """Returns the command that prints the same report; nothing if no models are open."""
    if not session.ready:
        return Markup("")
    models = session.models
    return markup.command(
        commands.inspect(models.base.path, models.checkpoints, models.start.vocabulary)
    )
