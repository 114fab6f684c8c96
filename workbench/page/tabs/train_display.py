"""What the fields of the train tab show of a plan's text, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from training.errors import TrainingError
from training.plan import schedule_kinds
from workbench.commands import display_path
from workbench.errors import is_user_error
from workbench.page.tabs import markup
from workbench.page.tabs.wiring import log
from workbench.plans import plan_files, plan_form, plan_text
from workbench.session.session import Session

FIELDS = 18
"""How many components `shown_of` fills, the message under the text included."""


def shown_of(session: Session, text: str) -> list[Any]:
    """A plan's text as the fields show it, and what is wrong with it; fields stay where it is no YAML."""
    models = [
        (one.label, display_path(one.path)) for one in session.found_models() if one.kind == "model"
    ]
    data = [(one.label, display_path(one.path)) for one in session.folders.sources()]
    try:
        plan = plan_text.document(text)
    except TrainingError:
        return [
            gr.Dropdown(models),
            gr.Dropdown(data),
            *[gr.skip()] * (FIELDS - 3),
            checked(session, text),
        ]
    given, settings = _section(plan, "sources"), _section(plan, "settings")
    paths = [plan_text.path_of(entry) for entry in given.values()]
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
        plan_form.metric(settings.get("group_by")),
        checked(session, text),
    ]


def _section(plan: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of a plan; empty where it is something else."""
    found = plan.get(name)
    return found if isinstance(found, dict) else {}


def _schedule_shown(schedule: Any, names: list[str]) -> list[Any]:
    """Kind and its parameters; a list of schedules, or one that is none, leaves them as they are."""
    if not isinstance(schedule, dict) or schedule.get("kind") not in schedule_kinds.KEYS:
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
        {
            "value": ", ".join(f"{name} {share}" for name, share in shares.items())
            if isinstance(shares, dict)
            else ""
        },
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
            visible=kind in ("mixing", "proportions"),
            label=held,
            placeholder="none" if study else "all of each",
        ),
        gr.update(
            visible=kind in ("dmt", "proportions"),
            placeholder="1 1/4 1/16 1/64 1/256" if study else "1/256",
        ),
        gr.update(visible=kind == "proportions"),
    ]


def checked(session: Session, text: str) -> Markup:
    """What is wrong with a plan, with its lines; or what it comes to."""
    try:
        plan = plan_files.check(session.workdir, session.folders, text)
        steps = plan.steps
    except Exception as error:
        if not is_user_error(error):
            log.exception("a plan could not be read")
            return markup.message(
                "Something unexpected happened; the server's log has it.", "problem"
            )
        faults = [
            line.removeprefix("plan, ").removeprefix("plan: ") for line in str(error).splitlines()
        ]
        return markup.message("\n".join(faults), "problem", "This plan cannot be carried out")
    names = ", ".join(step.name for step in steps[:12]) + (
        f" and {len(steps) - 12} more" if len(steps) > 12 else ""
    )
    return markup.message(f"{len(steps)} step{'s' if len(steps) != 1 else ''}: {names}")


def first(session: Session) -> str:
    """The plan that a page starts with: the models and data that are open, where they are."""
    models = [one for one in session.found_models() if one.kind == "model"]
    base = session.models.base.path if session.ready else models[0].path if models else None
    found = session.folders.sources()
    data = session.models.data_folder if session.ready else None
    beside = [one for one in found if data and one.path.parent.resolve() == Path(data).resolve()]
    chosen = {plan_form.name_of(one.path, ()): display_path(one.path) for one in beside}
    return plan_text.new(display_path(base) if base else "", chosen, plan_form.validation(chosen))


def text_of(session: Session, run: str) -> str:
    """The plan of an earlier run, as it was written on the page, or as it was carried out."""
    from training.plan.finished_steps import PLAN

    files = (
        session.workdir.plan(run),
        session.workdir.run(run) / PLAN,
    )
    return next((file.read_text("utf-8") for file in files if file.is_file()), "")


def _number(value: Any, otherwise: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
