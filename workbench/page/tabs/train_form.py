"""The plan of the train tab: fields that write its text, and the text itself, which may be edited; each follows the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from workbench.commands import display_path
from workbench.errors import is_user_error
from workbench.page.tabs import markup
from workbench.page.tabs.train_display import checked, first, parameters, shown_of
from workbench.page.tabs.wiring import LATEST, QUIET, log, writing
from workbench.plans import plan_form, plan_text
from workbench.session.session import Session

KINDS = [
    ("one checkpoint per source (DEM's experts)", "experts"),
    ("all sources mixed", "mixing"),
    ("one source after the other", "sequential"),
    ("special sources together, then the general ones", "mixed_sequential"),
    ("DMT: special together, then general with a share k of special", "dmt"),
    ("a study over proportions k", "proportions"),
]
"""What is shown -> kind of schedule."""

GROUPS = [
    ("nothing", ""),
    ("their task (CommonIT)", "task"),
    ("their response length (CommonIT)", "length"),
    ("what they are about (CommonIT, k-means)", "kmeans"),
]
"""What is shown -> metric of `group_by`."""

ORDERED = "Sequential training goes in the order in which they are chosen."


@dataclass(frozen=True)
class Form:
    """The components that the rest of the tab needs."""

    text: gr.Code
    fields: list[Any]
    read: Callable[[str], list[Any]]
    """The plan's text -> what `fields` and the message under it show."""


def build(session: Session, tab: gr.Tab) -> Form:
    """Fields, text and the message under it."""
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
            label="Special sources, the others are general",
            multiselect=True,
            visible=False,
            elem_id="train-special",
        )
        shares = gr.Textbox(
            label="Shares, such as math 1, code 1/4",
            placeholder="all of each",
            visible=False,
            elem_id="train-shares",
        )
        k = gr.Textbox(
            label="k, one or several", placeholder="1/256", visible=False, elem_id="train-k"
        )
        single = gr.Checkbox(label="each source alone", visible=False, elem_id="train-single")
    with gr.Row(elem_id="train-settings"):
        unit = gr.Dropdown(
            ["epochs", "steps"],
            value="epochs",
            label="Length in",
            elem_id="train-unit",
            min_width=96,
        )
        length = gr.Number(1, label="Length", minimum=0, elem_id="train-length", min_width=88)
        rate = gr.Textbox("6e-4", label="Learning rate", elem_id="train-rate", min_width=96)
        batch = gr.Number(32, label="Batch", precision=0, elem_id="train-batch", min_width=80)
        accumulation = gr.Number(
            1, label="Accumulation", precision=0, elem_id="train-accumulation", min_width=96
        )
        rank = gr.Number(
            0, label="LoRA rank, 0: none", precision=0, elem_id="train-rank", min_width=120
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
            None, label="Validate every … steps", precision=0, elem_id="train-every", min_width=130
        )
        group = gr.Dropdown(
            GROUPS, value="", label="A step's examples share", elem_id="train-group", min_width=200
        )
    text = gr.Code(
        "", language="yaml", label="Plan", lines=12, max_lines=28, wrap_lines=True, interactive=True, elem_id="train-plan",
        buttons=["copy"],
    )  # fmt: skip
    said = gr.HTML(elem_id="train-plan-state")
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
        said,
    ]

    chain = gr.State([])  # what the fields wrote since the text was last edited by hand

    def read(text: str) -> list[Any]:
        return shown_of(session, text)

    def edited(text: str) -> list[Any]:
        return [*read(text), [text]]

    def arrive(text: str) -> list[Any]:
        session.opened.wait(20)
        if text.strip():
            return [gr.skip(), *read(text)]
        new = first(session)
        return [new, *read(new)]

    def write(change: Callable[..., str]) -> Callable[..., list[Any]]:
        def work(text: str, chain: list[str], *values: Any) -> list[Any]:
            # a field that changed before the page had the text of the change before goes on from that text
            chain = chain if text in chain else [text]
            try:
                written = change(chain[-1], *values)
                names = list(plan_text.document(written).get("sources") or {})
            except Exception as error:
                if not is_user_error(error):
                    log.exception("a field of the plan failed")
                    raise
                said = markup.message(str(error), "problem", "The plan was not changed")
                return [gr.skip(), gr.skip(), said, chain]
            return [
                written,
                gr.update(choices=names),
                checked(session, written),
                [*chain[-20:], written],
            ]

        return work

    def put(event: Any, change: Callable[..., str], *inputs: Any) -> None:
        targets = [text, special, said, chain]
        event(write(change), [text, chain, *inputs], targets, **writing("plan"))

    put(base.input, lambda text, base: plan_text.with_base(text, display_path(base)), base)
    put(
        sources.input,
        lambda text, *now: plan_form.scheduled(plan_form.sourced(text, now[0]), *now),
        *scheduled,
    )
    kind.input(lambda kind: parameters(kind), kind, [special, shares, k, single], **LATEST)
    for one in (kind, special, shares, k, single):
        put(
            one.input if one in (kind, special, single) else one.blur,
            plan_form.scheduled,
            *scheduled,
        )
    for one in (unit.input, length.input):
        put(one, plan_form.lengthened, unit, length)
    put(
        rate.blur,
        lambda text, value: plan_text.with_settings(text, rate=plan_form.rate(value)),
        rate,
    )
    put(rank.input, plan_form.adapted, rank)
    put(group.input, plan_form.grouped, group)
    for key, one in (
        ("batch", batch),
        ("accumulation", accumulation),
        ("precision", precision),
        ("seed", seed),
        ("evaluate_every", every),
    ):
        put(
            one.input,
            lambda text, value, key=key: plan_text.with_settings(
                text, **{key: value or None if key != "seed" else value}
            ),
            one,
        )
    text.blur(edited, text, [*fields, chain], **writing("plan"))
    tab.select(arrive, text, [text, *fields], **QUIET)
    return Form(text, fields, read)
