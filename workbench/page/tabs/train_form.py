"""The plan on the train tab, as fields and as editable text; each follows the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from workbench.commands import display_path
from workbench.errors import is_user_error
from workbench.page.tabs import markup, train_advanced
from workbench.page.tabs.train_display import check_html, field_updates, first_plan, schedule_fields
from workbench.page.tabs.wiring import EVERY_CHANGE, QUIET, log, one_at_a_time
from workbench.plans import plan_form, plan_text
from workbench.session.session import Session

KINDS = [
    ("one checkpoint per source (DEM experts)", "experts"),
    ("all sources mixed", "mixing"),
    ("one source after another", "sequential"),
    ("special sources mixed, then the general ones", "mixed_sequential"),
    ("DMT: special sources, then general ones plus a share k of special", "dmt"),
    ("study: one training per proportion k", "proportions"),
]
"""Label -> kind of schedule."""

GROUPS = [
    ("none", ""),
    ("task (CommonIT)", "task"),
    ("response length (CommonIT)", "length"),
    ("topic (CommonIT, k-means)", "kmeans"),
]
"""Label -> metric of `group_by`."""

ORDERED = "Sequential training follows this order."


@dataclass(frozen=True)
class Form:
    """The components of the form that the rest of the tab needs."""

    text: gr.Code
    fields: list[Any]
    read: Callable[[str], list[Any]]
    """Returns updates of `fields` for a plan's text."""


def build(session: Session, tab: gr.Tab) -> Form:
    """Builds the fields, the text and the message under it."""
    with gr.Row(elem_id="train-data"):
        base = gr.Dropdown([], label="Base model", elem_id="train-base", min_width=200)
        sources = gr.Dropdown(
            [],
            label="Sources",
            info=ORDERED,
            multiselect=True,
            elem_id="train-sources",
            min_width=200,
        )
    with gr.Row(elem_id="train-schedule"):
        kind = gr.Dropdown(
            KINDS, value="experts", label="Schedule", elem_id="train-kind", min_width=240
        )
        special = gr.Dropdown(
            [],
            label="Special sources (all others are general)",
            multiselect=True,
            visible=False,
            elem_id="train-special",
        )
        shares = gr.Textbox(
            label="Shares, e.g. math 1, code 1/4",
            placeholder="all of each",
            visible=False,
            elem_id="train-shares",
        )
        k = gr.Textbox(
            label="k (one or more values)", placeholder="1/256", visible=False, elem_id="train-k"
        )
        single = gr.Checkbox(
            label="vary each source separately", visible=False, elem_id="train-single"
        )
    with gr.Row(elem_id="train-settings"):
        unit = gr.Dropdown(
            ["epochs", "steps"],
            value="epochs",
            label="Unit",
            elem_id="train-unit",
            min_width=96,
        )
        length = gr.Number(1, label="Length", minimum=0, elem_id="train-length", min_width=88)
        rate = gr.Textbox("6e-4", label="Learning rate", elem_id="train-rate", min_width=96)
        batch = gr.Number(32, label="Batch size", precision=0, elem_id="train-batch", min_width=80)
        accumulation = gr.Number(
            1, label="Accumulation", precision=0, elem_id="train-accumulation", min_width=96
        )
        rank = gr.Number(
            0, label="LoRA rank (0: off)", precision=0, elem_id="train-rank", min_width=120
        )
        precision = gr.Dropdown(
            ["bf16", "fp32"],
            value="bf16",
            label="Precision",
            elem_id="train-precision",
            min_width=96,
        )
        seed = gr.Number(0, label="Seed", precision=0, elem_id="train-seed", min_width=80)
        every = gr.Number(
            None, label="Validate every N steps", precision=0, elem_id="train-every", min_width=130
        )
        group = gr.Dropdown(
            GROUPS, value="", label="Group batches by", elem_id="train-group", min_width=200
        )
    advanced = train_advanced.build()
    text = gr.Code(
        "",
        language="yaml",
        label="Plan (YAML)",
        lines=12,
        max_lines=28,
        wrap_lines=True,
        interactive=True,
        elem_id="train-plan",
        elem_classes="plan-text",
        buttons=["copy"],
    )
    problems = gr.HTML(elem_id="train-plan-state")
    scheduled = [sources, kind, special, shares, k, single]
    fields = [
        base,
        *scheduled,
        unit,
        length,
        rate,
        batch,
        accumulation,
        rank,
        precision,
        seed,
        every,
        group,
        *advanced,
        problems,
    ]

    # The texts that the fields wrote since the text was last edited by hand, oldest first.
    chain = gr.State([])

    def read(text: str) -> list[Any]:
        return field_updates(session, text)

    def read_edited(text: str) -> list[Any]:
        return [*read(text), [text]]

    def arrive(text: str) -> list[Any]:
        session.opened.wait(20)
        if text.strip():
            return [gr.skip(), *read(text)]
        new = first_plan(session)
        return [new, *read(new)]

    def write(change: Callable[..., str]) -> Callable[..., list[Any]]:
        def work(text: str, chain: list[str], *values: Any) -> list[Any]:
            # The page may send an older text of ours if two fields change in quick succession. Then
            # the second change continues from our newest text, so that the first one is not lost.
            chain = chain if text in chain else [text]
            try:
                written = change(chain[-1], *values)
                names = list(plan_text.document(written).get("sources") or {})
            except Exception as error:
                if not is_user_error(error):
                    log.exception("a field of the plan failed")
                    raise
                message = markup.message(str(error), "problem", "The plan was not changed")
                return [gr.skip(), gr.skip(), message, chain]
            return [
                written,
                gr.update(choices=names),
                check_html(session, written),
                [*chain[-20:], written],
            ]

        return work

    def put(event: Any, change: Callable[..., str], *inputs: Any) -> None:
        targets = [text, special, problems, chain]
        event(write(change), [text, chain, *inputs], targets, **one_at_a_time("plan"))

    def with_base(text: str, base: str) -> str:
        # display_path resolves links, and would tell where one outside leads.
        shown = display_path(base) if session.folders.holds(base) else base
        return plan_text.with_base(text, shown)

    put(base.input, with_base, base)
    put(
        sources.input,
        lambda text, paths, *now: plan_form.set_schedule(
            plan_form.set_sources(text, paths, session.folders.holds),
            plan_form.ScheduleFields(*now),
        ),
        *scheduled,
    )
    kind.input(
        lambda kind: schedule_fields(kind), kind, [special, shares, k, single], **EVERY_CHANGE
    )
    # Text fields write the plan only when they are left: half a word is not a share.
    for field in (kind, special, shares, k, single):
        put(
            field.input if field in (kind, special, single) else field.blur,
            lambda text, _, *now: plan_form.set_schedule(text, plan_form.ScheduleFields(*now)),
            *scheduled,
        )
    for event in (unit.input, length.input):
        put(event, plan_form.set_length, unit, length)
    put(
        rate.blur,
        lambda text, value: plan_text.with_settings(text, rate=plan_form.parse_rate(value)),
        rate,
    )
    put(rank.input, plan_form.set_adapter_rank, rank)
    put(group.input, plan_form.set_group_metric, group)
    for key, number in (
        ("batch", batch),
        ("accumulation", accumulation),
        ("precision", precision),
        ("seed", seed),
        ("evaluate_every", every),
    ):
        put(
            number.input,
            lambda text, value, key=key: plan_text.with_settings(
                text, **{key: value or None if key != "seed" else value}
            ),
            number,
        )
    for setting, field in zip(train_advanced.ADVANCED, advanced, strict=True):
        # A number is written when the box is left, a choice when it is made.
        is_number = not setting.choices and setting.hint is not bool
        put(
            field.blur if is_number else field.input,
            lambda text, value, key=setting.key: train_advanced.write(text, key, value),
            field,
        )
    text.blur(read_edited, text, [*fields, chain], **one_at_a_time("plan"))
    tab.select(arrive, text, [text, *fields], **QUIET)
    return Form(text, fields, read)
