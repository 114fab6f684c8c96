"""The form of the question which examples of a pool to train on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from workbench.commands import display_path
from workbench.errors import SessionError
from workbench.influence_runs.data_settings import SelectSettings
from workbench.influence_runs.outlooks.data_outlook import DataOutlook
from workbench.jobs import data_questions
from workbench.page.tabs.data import field_values as values
from workbench.page.tabs.data import form
from workbench.page.tabs.data.form import QuestionForm, short
from workbench.session.session import Session

METHODS = [
    ("LESS: gradients, after a warm-up", "less"),
    ("RDS+: hidden states, one pass", "rds"),
    ("BM25: words in common", "bm25"),
    ("stratified: equally many of each source", "stratified"),
    ("random: by chance", "random"),
]
POLICIES = [
    ("turns: each target takes its best", "round_robin"),
    ("max: best for any subtask", "max"),
    ("mean: best mean over subtasks", "mean"),
]
UNITS = [
    ("examples", "examples"),
    ("supervised tokens", "supervised"),
    ("all tokens", "tokens"),
]
COPIES = [("exact copies", "exact"), ("near copies too", "near"), ("none", "none")]
DIRECTIONS = [
    ("the gradient (sgd)", "sgd"),
    ("Adam's step (adam)", "adam"),
    ("signs (sign)", "sign"),
    ("as LESS's code (adam-less-repo)", "adam-less-repo"),
]
DEFAULTS = SelectSettings("", "", "")


def build(session: Session) -> QuestionForm:
    """Builds the fields, those that few need folded under "Advanced"."""
    new = DEFAULTS
    with gr.Row(elem_classes="data-fields wide"):
        base = form.folder_field("Base model", "select-base")
        pool = form.folder_field("Pool: folder with SOURCE/train.jsonl", "select-pool")
        targets = form.folder_field(
            "Targets: folder with SUBTASK/validation.jsonl", "select-targets"
        )
    with gr.Row(elem_classes="data-fields wide"):
        method = _choice(METHODS, new.method, "Method", "select-method")
        policy = _choice(POLICIES, new.policy, "Policy", "select-policy")
    with gr.Row(elem_classes="data-fields"):
        share = short("Share of the pool", "select-share", f"{new.share:g}")
        count = short("or a count", "select-count", "", "of the unit")
        limit = short("Targets per subtask", "select-limit", str(new.limit), "all")
        seed = short("Seed", "select-seed", str(new.seed))
    with gr.Accordion("Advanced", open=False, elem_id="data-select-advanced"):
        with gr.Row(elem_classes="data-fields"):
            split = short("Split of the pool", "select-split", new.split)
            target_split = short("Split of the targets", "select-target-split", new.target_split)
            unit = _choice(UNITS, new.unit, "What counts", "select-unit")
            cap = short("Most from a source, share", "select-cap", "", "no limit")
            copies = _choice(COPIES, new.copies, "Choose once only", "select-copies")
        gr.HTML('<p class="facts-line">For LESS only: the warm-up, and what is stored.</p>')
        with gr.Row(elem_classes="data-fields"):
            warm_share = short("Share to warm up on", "select-warm-share", f"{new.warm_share:g}")
            epochs = short("Passes (checkpoints)", "select-epochs", str(new.epochs))
            rate = short("Learning rate", "select-rate", f"{new.rate:g}")
            rank = short("LoRA rank", "select-rank", str(new.rank))
            batch = short("Batch size", "select-batch", str(new.batch))
            size = short("Numbers per gradient", "select-size", str(new.size))
            kind = _choice(DIRECTIONS, new.kind, "Stored direction", "select-kind")
            centre = gr.Checkbox(
                label="subtract the mean gradient", elem_id="data-select-centre", min_width=160
            )
    fields = [
        base, pool, targets, method, policy, share, count, limit, seed,
        split, target_split, unit, cap, copies,
        warm_share, epochs, rate, rank, batch, size, kind, centre,
    ]  # fmt: skip

    def arrive(base: str | None, pool: str | None, targets: str | None, *_: Any) -> list[Any]:
        data = form.datasets(session)
        opened = form.open_data(session)
        updates = [
            form.choices(form.models(session), base, form.open_base(session)),
            form.choices(data, pool, opened),
            form.choices(data, targets, opened),
        ]
        return [*updates, *[gr.skip()] * (len(fields) - len(updates))]

    def estimate(settings: SelectSettings, name: str) -> DataOutlook:
        from workbench.influence_runs.outlooks.select_outlook import select_outlook

        study, _ = data_questions.study_of(session, settings)
        return select_outlook(settings, study, session.ledger)

    return QuestionForm("select", fields, read, fill, arrive, estimate)


def _choice(listed: list[tuple[str, str]], value: str, label: str, name: str) -> gr.Dropdown:
    return gr.Dropdown(listed, value=value, label=label, elem_id=f"data-{name}", min_width=160)


def read(*given: Any) -> SelectSettings:
    """Makes settings of the values of the fields, in their order.

    Raises:
        SessionError: a value is wrong.
    """
    (
        base, pool, targets, method, policy, share, count, limit, seed,
        split, target_split, unit, cap, copies,
        warm_share, epochs, rate, rank, batch, size, kind, centre,
    ) = given  # fmt: skip
    counted = values.optional_whole(count, "or a count")
    if method == "bm25" and policy != "round_robin":
        raise SessionError(
            f"Policy: {policy} was chosen with BM25, whose scores grow with the length of a "
            "validation example, so they cannot be compared. Choose turns."
        )
    return SelectSettings(
        base=values.folder(base, "Base model"),
        pool=values.folder(pool, "Pool"),
        targets=values.folder(targets, "Targets"),
        split=values.name_of_split(split, "Split of the pool"),
        target_split=values.name_of_split(target_split, "Split of the targets"),
        limit=values.optional_whole(limit, "Targets per subtask"),
        method=method,
        policy=policy,
        # A count takes the place of the share, whatever is left in that field.
        share=DEFAULTS.share if counted else values.share(share, "Share of the pool"),
        count=counted,
        unit=unit,
        cap=values.optional_share(cap, "Most from a source, share"),
        copies=copies,
        kind=kind,
        centre=bool(centre),
        size=values.whole(size, "Numbers per gradient", 4),
        warm_share=values.share(warm_share, "Share to warm up on"),
        epochs=values.whole(epochs, "Passes (checkpoints)"),
        rate=values.positive(rate, "Learning rate", "1e-3"),
        rank=values.whole(rank, "LoRA rank"),
        batch=values.whole(batch, "Batch size"),
        seed=values.whole(seed, "Seed", 0),
    )


def fill(settings: SelectSettings) -> list[Any]:
    """Returns the values of the fields for settings."""
    shown = replace(
        settings,
        base=display_path(settings.base),
        pool=display_path(settings.pool),
        targets=display_path(settings.targets),
    )
    return [
        shown.base, shown.pool, shown.targets, shown.method, shown.policy,
        _text(shown.share), _text(shown.count), _text(shown.limit), str(shown.seed),
        shown.split, shown.target_split, shown.unit, _text(shown.cap), shown.copies,
        _text(shown.warm_share), str(shown.epochs), _text(shown.rate), str(shown.rank),
        str(shown.batch), str(shown.size), shown.kind, shown.centre,
    ]  # fmt: skip


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
