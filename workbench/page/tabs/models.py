"""Models: what is open, and the folders that can be opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from plumbing import units
from workbench import commands
from workbench.errors import is_user_error
from workbench.page.tabs import markup
from workbench.page.tabs.wiring import QUIET, Board, log
from workbench.session.folders import ModelFolder
from workbench.session.memory import stored_bytes
from workbench.session.session import Session

VOCABULARIES = [
    ("are refused, with what differs", "refuse"),
    ("leave the base's embeddings and head", "base"),
]
"""What is shown -> dem.vocabulary. A union grows the model, which is for exports by a recipe."""


def build(session: Session, board: Board, tab: gr.Tab, opened: Callable[[], str]) -> None:
    """The tab. `opened` gives the word whose change tells the page that other models are open."""
    now = gr.HTML(elem_id="open-models")
    gr.HTML(Markup("<h2>Open others</h2>"))
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
        label="Checkpoints of another vocabulary",
        elem_id="pick-vocabulary",
    )
    with gr.Row(elem_id="open-row"):
        go = gr.Button("Open", variant="primary", size="sm", elem_id="open")
        refresh = gr.Button("Refresh the list", size="sm", elem_id="refresh")
    report = gr.HTML(elem_id="open-report")
    line = gr.HTML(elem_id="inspect-line")

    def arrive() -> list[Any]:
        return [models_html(session), *choices(session), inspect_line(session)]

    def listed() -> list[Any]:
        return choices(session)

    def open_them(base: str | None, chosen: list[str] | None, data: str | None, rows: str) -> Any:
        if not base or not chosen:
            text = "Choose a base and at least one checkpoint that was fine-tuned from it."
            yield markup.message(text, "problem", "Nothing was opened"), *[gr.skip()] * 3
            return
        yield (
            markup.message(
                f"Reading {commands.display_path(base)} and {len(chosen)} checkpoints.",
                title="Opening",
            ),
            *[gr.skip()] * 3,
        )
        try:
            session.open(base, [(path, None) for path in chosen], data or None, rows)
        except Exception as error:
            if not is_user_error(error):
                log.exception("opening failed")
            text = (
                str(error)
                if is_user_error(error)
                else "Something unexpected happened; the server's log has it."
            )
            kept = "What was open before is still open." if session.ready else ""
            yield (
                markup.message(f"{text}\n{kept}".strip(), "problem", "Nothing was opened"),
                *[gr.skip()] * 3,
            )
            return
        done = markup.message(f"{len(chosen)} vectors are on the sliders.", "done", "Open")
        yield done, models_html(session), inspect_line(session), opened()

    tab.select(arrive, None, [now, base, checkpoints, data, line], **QUIET)
    board.opened.change(
        lambda: [models_html(session), inspect_line(session)], None, [now, line], **QUIET
    )
    refresh.click(listed, None, [base, checkpoints, data], **QUIET)
    go.click(
        open_them, [base, checkpoints, data, vocabulary], [report, now, line, board.opened],
        concurrency_id="open", concurrency_limit=1, **QUIET,
    )  # fmt: skip


def choices(session: Session) -> list[Any]:
    """The three lists, with what is open chosen."""
    found = session.found_models()
    folders = session.found_data()
    models = session.models if session.ready else None

    def label(one: ModelFolder) -> str:
        return f"{one.label}  (LoRA adapter)" if one.kind == "adapter" else one.label

    whole = [(one.label, str(one.path)) for one in found if one.kind == "model"]
    every = [(label(one), str(one.path)) for one in found]
    open_now = [str(Path(path).resolve()) for path in models.checkpoints] if models else []
    known = {path for _, path in every}
    data = str(models.data_folder) if models and models.data_folder else None
    return [
        gr.Dropdown(whole, value=str(models.base.path.resolve()) if models else None),
        gr.Dropdown(every, value=[path for path in open_now if path in known]),
        gr.Dropdown(
            [("none", ""), *[(one.label, str(one.path)) for one in folders]], value=data or ""
        ),
    ]


def models_html(session: Session) -> Markup:
    """What is open, as a table."""
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
    for place, (name, vector) in enumerate(models.vectors.items()):
        rank = getattr(vector, "rank", None)
        kind = f"LoRA, rank {rank}" if rank else "full"
        who = Markup('<span class="who">{}<span>{}</span></span>').format(
            markup.swatch(place), name
        )
        size = units.size(stored_bytes(vector))
        rows.append(
            [
                f"Δ{place + 1}",
                who,
                kind,
                size,
                vector.digest[:12],
                commands.display_path(vector.path or ""),
            ]
        )
    table = markup.table(
        ["in Θ", "name", "kind", "size", "digest", "folder"], rows, numeric=[3], label="Open models"
    )
    data = commands.display_path(models.data_folder) if models.data_folder else "none"
    facts = Markup('<p class="facts-line">weights {} · validation data {} · {}</p>').format(
        models.memory,
        data,
        ", ".join(
            f"{name} {one.prepared['full'].datasets[0].n}" for name, one in models.data.items()
        ),
    )
    notes = markup.join(markup.message(note, "warning") for note in models.notes)
    return Markup("<h2>Open</h2>{}{}{}").format(table, facts, notes)


def inspect_line(session: Session) -> Markup:
    """The command that gives the same report in a shell."""
    if not session.ready:
        return Markup("")
    models = session.models
    return markup.command(
        commands.inspect(models.base.path, models.checkpoints, models.start.vocabulary)
    )
