"""The plan of the train tab: fields that write its text, and the text itself, which may be edited; each follows the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from training import kinds
from training.errors import TrainingError
from workbench import training_fields, training_plans
from workbench.commands import shown
from workbench.errors import is_for_the_reader
from workbench.session import Session
from workbench.tabs import markup
from workbench.tabs.common import QUIET, log

KINDS = [
    ("one checkpoint per source (DEM's experts)", "experts"),
    ("all sources mixed", "mixing"),
    ("one source after the other", "sequential"),
    ("special sources together, then the general ones", "mixed_sequential"),
    ("DMT: special together, then general with a share k of special", "dmt"),
    ("a study over proportions k", "proportions"),
]
"""What is shown -> kind of schedule."""

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
            [], label="Sources", info=ORDERED, multiselect=True, elem_id="train-sources", min_width=200
        )
    with gr.Row(elem_id="train-schedule"):
        kind = gr.Dropdown(KINDS, value="experts", label="Schedule", elem_id="train-kind", min_width=240)
        special = gr.Dropdown(
            [],
            label="Special sources, the others are general",
            multiselect=True,
            visible=False,
            elem_id="train-special",
        )
        shares = gr.Textbox(
            label="Shares, such as math 1, code 1/4", placeholder="all of each", visible=False, elem_id="train-shares"
        )
        k = gr.Textbox(label="k, one or several", placeholder="1/256", visible=False, elem_id="train-k")
        single = gr.Checkbox(label="each source alone", visible=False, elem_id="train-single")
    with gr.Row(elem_id="train-settings"):
        unit = gr.Dropdown(["epochs", "steps"], value="epochs", label="Length in", elem_id="train-unit", min_width=96)
        length = gr.Number(1, label="Length", minimum=0, elem_id="train-length", min_width=88)
        rate = gr.Textbox("6e-4", label="Learning rate", elem_id="train-rate", min_width=96)
        batch = gr.Number(32, label="Batch", precision=0, elem_id="train-batch", min_width=80)
        accumulation = gr.Number(1, label="Accumulation", precision=0, elem_id="train-accumulation", min_width=96)
        rank = gr.Number(0, label="LoRA rank, 0: none", precision=0, elem_id="train-rank", min_width=120)
        precision = gr.Dropdown(
            ["bf16", "fp32"], value="bf16", label="Precision", elem_id="train-precision", min_width=96
        )
        seed = gr.Number(0, label="Seed", precision=0, elem_id="train-seed", min_width=80)
        every = gr.Number(None, label="Validate every … steps", precision=0, elem_id="train-every", min_width=130)
    text = gr.Code(
        "", language="yaml", label="Plan", lines=12, max_lines=28, wrap_lines=True, interactive=True, elem_id="train-plan",
        buttons=["copy"],
    )  # fmt: skip
    said = gr.HTML(elem_id="train-plan-state")
    scheduled = [sources, kind, special, shares, k, single]
    fields = [base, *scheduled, unit, length, rate, batch, accumulation, rank, precision, seed, every, said]

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
                names = list(training_plans.document(written).get("sources") or {})
            except Exception as error:
                if not is_for_the_reader(error):
                    log.exception("a field of the plan failed")
                    raise
                said = markup.message(str(error), "problem", "The plan was not changed")
                return [gr.skip(), gr.skip(), said, chain]
            return [written, gr.update(choices=names), checked(session, written), [*chain[-20:], written]]

        return work

    def put(event: Any, change: Callable[..., str], *inputs: Any) -> None:
        targets, one = [text, special, said, chain], {"concurrency_limit": 1, "concurrency_id": "plan"}
        event(write(change), [text, chain, *inputs], targets, trigger_mode="always_last", **one, **QUIET)

    put(base.input, lambda text, base: training_plans.with_base(text, shown(base)), base)
    put(
        sources.input,
        lambda text, *now: training_fields.scheduled(training_fields.sourced(text, now[0]), *now),
        *scheduled,
    )
    kind.input(lambda kind: parameters(kind), kind, [special, shares, k, single], **QUIET)
    for one in (kind, special, shares, k, single):
        put(one.input if one in (kind, special, single) else one.blur, training_fields.scheduled, *scheduled)
    for one in (unit.input, length.input):
        put(one, training_fields.lengthened, unit, length)
    put(rate.blur, lambda text, value: training_plans.with_settings(text, rate=training_fields.rate(value)), rate)
    put(rank.input, training_fields.adapted, rank)
    for key, one in (
        ("batch", batch),
        ("accumulation", accumulation),
        ("precision", precision),
        ("seed", seed),
        ("evaluate_every", every),
    ):
        put(
            one.input,
            lambda text, value, key=key: training_plans.with_settings(
                text, **{key: value or None if key != "seed" else value}
            ),
            one,
        )
    text.blur(edited, text, [*fields, chain], **QUIET)
    tab.select(arrive, text, [text, *fields], **QUIET)
    return Form(text, fields, read)


def shown_of(session: Session, text: str) -> list[Any]:
    """A plan's text as the fields show it, and what is wrong with it; fields stay where it is no YAML."""
    models = [(one.label, shown(one.path)) for one in session.found_models() if one.kind == "model"]
    data = [(one.label, shown(one.path)) for one in session.folders.sources()]
    try:
        plan = training_plans.document(text)
    except TrainingError:
        return [gr.Dropdown(models), gr.Dropdown(data), *[gr.skip()] * 14, checked(session, text)]
    given, settings = _section(plan, "sources"), _section(plan, "settings")
    paths = [training_plans.path_of(entry) for entry in given.values()]
    extra = [(path, path) for path in paths if path and path not in [known for _, known in data]]
    base = str(plan.get("base", "")) or None
    models += [(base, base)] if base and base not in [path for _, path in models] else []
    lora = settings.get("lora")
    unit = "steps" if "steps" in settings else "epochs"
    return [
        gr.Dropdown(models, value=base),
        gr.update(choices=[*data, *extra], value=[path for path in paths if path]),
        *_schedule_shown(plan.get("schedule"), list(given)),
        unit,
        _number(settings.get(unit), 1),
        str(settings.get("rate", "6e-4")),
        _number(settings.get("batch"), 32),
        _number(settings.get("accumulation"), 1),
        _number(lora.get("rank") if isinstance(lora, dict) else lora, 0),
        settings.get("precision") if settings.get("precision") in ("bf16", "fp32") else "bf16",
        _number(settings.get("seed"), 0),
        _number(settings.get("evaluate_every"), None),
        checked(session, text),
    ]


def _section(plan: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of a plan; empty where it is something else."""
    found = plan.get(name)
    return found if isinstance(found, dict) else {}


def _schedule_shown(schedule: Any, names: list[str]) -> list[Any]:
    """Kind and its parameters; a list of schedules, or one that is none, leaves them as they are."""
    if not isinstance(schedule, dict) or schedule.get("kind") not in kinds.KEYS:
        return [gr.skip()] * 5
    kind = schedule["kind"]
    special = (
        [name for name in schedule.get("special", ()) if name in names]
        if isinstance(schedule.get("special"), list)
        else []
    )
    shares = schedule.get("hold" if kind == "proportions" else "shares")
    given = schedule.get("k", [])
    values: tuple[dict[str, Any], ...] = (
        {"choices": names, "value": special},
        {"value": ", ".join(f"{name} {share}" for name, share in shares.items()) if isinstance(shares, dict) else ""},
        {"value": " ".join(map(str, given if isinstance(given, list) else [given]))},
        {"value": schedule.get("single") is True},
    )
    return [kind, *({**one, **value} for one, value in zip(parameters(kind), values, strict=True))]


def parameters(kind: str) -> list[Any]:
    """Which fields a kind of schedule has."""
    study = kind == "proportions"
    held = "Held at a share, such as general 1" if study else "Shares, such as math 1, code 1/4"
    return [
        gr.update(visible=kind in ("mixed_sequential", "dmt")),
        gr.update(
            visible=kind in ("mixing", "proportions"), label=held, placeholder="none" if study else "all of each"
        ),
        gr.update(visible=kind in ("dmt", "proportions"), placeholder="1 1/4 1/16 1/64 1/256" if study else "1/256"),
        gr.update(visible=kind == "proportions"),
    ]


def checked(session: Session, text: str) -> Markup:
    """What is wrong with a plan, with its lines; or what it comes to."""
    try:
        plan = training_plans.check(session, text)
        steps = plan.steps
    except Exception as error:
        if not is_for_the_reader(error):
            log.exception("a plan could not be read")
            return markup.message("Something unexpected happened; the server's log has it.", "problem")
        faults = [line.removeprefix("plan, ").removeprefix("plan: ") for line in str(error).splitlines()]
        return markup.message("\n".join(faults), "problem", "This plan cannot be carried out")
    names = ", ".join(step.name for step in steps[:12]) + (f" and {len(steps) - 12} more" if len(steps) > 12 else "")
    return markup.message(f"{len(steps)} step{'s' if len(steps) != 1 else ''}: {names}")


def first(session: Session) -> str:
    """The plan that a page starts with: the models and data that are open, where they are."""
    models = [one for one in session.found_models() if one.kind == "model"]
    base = session.models.base.path if session.ready else models[0].path if models else None
    found = session.folders.sources()
    data = session.models.data_folder if session.ready else None
    beside = [one for one in found if data and one.path.parent.resolve() == Path(data).resolve()]
    chosen = {training_fields.name_of(one.path, ()): shown(one.path) for one in beside}
    return training_plans.new(shown(base) if base else "", chosen, training_fields.validation(chosen))


def text_of(session: Session, run: str) -> str:
    """The plan of an earlier run, as it was written on the page, or as it was carried out."""
    from training.folders import PLAN

    files = (
        session.workdir / training_plans.PLANS / f"{run}.yml",
        session.workdir / training_plans.TRAINED / run / PLAN,
    )
    training_plans.folder(session, run)  # refuses what is no name
    return next((file.read_text("utf-8") for file in files if file.is_file()), "")


def _number(value: Any, otherwise: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
