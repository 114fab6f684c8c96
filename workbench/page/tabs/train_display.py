"""Shows a plan's text in the fields of the train tab, with the problems of the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from corpus.reach import Reach
from training.errors import TrainingError
from training.plan import schedule_kinds
from workbench.commands import display_path
from workbench.errors import is_user_error
from workbench.page.tabs import markup, train_advanced
from workbench.page.tabs.wiring import UNEXPECTED, log
from workbench.plans import plan_files, plan_form, plan_text
from workbench.session.session import Session

FIELDS = 18 + len(train_advanced.ADVANCED)
"""Number of components that `field_updates` writes, including the message under the text."""


def field_updates(session: Session, text: str) -> list[Any]:
    """Returns updates of the fields for a plan's text, and a message about the plan.

    The fields keep their values if the text is not valid YAML.
    """
    models = [
        (folder.label, display_path(folder.path))
        for folder in session.folders.models()
        if folder.kind == "model"
    ]
    data = [(folder.label, display_path(folder.path)) for folder in session.folders.sources()]
    try:
        plan = plan_text.document(text)
    except TrainingError:
        return [
            gr.Dropdown(models),
            gr.Dropdown(data),
            *[gr.skip()] * (FIELDS - 3),
            check_html(session, text),
        ]
    sources, settings = _section(plan, "sources"), _section(plan, "settings")
    paths = [plan_text.path_of(entry) for entry in sources.values()]
    # A plan may name paths that the lists lack, and gradio refuses a value that is not a choice.
    listed = [path for _, path in data]
    extra = [(path, path) for path in paths if path and path not in listed]
    base = str(plan.get("base", "")) or None
    models += [(base, base)] if base and base not in [path for _, path in models] else []
    lora = settings.get("lora")
    unit = "steps" if "steps" in settings else "epochs"
    return [
        gr.Dropdown(models, value=base),
        gr.update(choices=[*data, *extra], value=[path for path in paths if path]),
        *_schedule_updates(plan.get("schedule"), list(sources)),
        unit,
        _number(settings.get(unit), 1),
        str(settings.get("rate", "6e-4")),
        _number(settings.get("batch"), 32),
        _number(settings.get("accumulation"), 1),
        _number(lora.get("rank") if isinstance(lora, dict) else lora, 0),
        settings.get("precision") if settings.get("precision") in ("bf16", "fp32") else "bf16",
        _number(settings.get("seed"), 0),
        _number(settings.get("evaluate_every"), None),
        plan_form.group_metric(settings.get("group_by")),
        *train_advanced.values(settings),
        check_html(session, text),
    ]


def _section(plan: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns a section of a plan; {} if it is missing or not a mapping."""
    section = plan.get(name)
    return section if isinstance(section, dict) else {}


def _schedule_updates(schedule: Any, names: list[str]) -> list[Any]:
    """Returns updates of the five schedule fields for a plan's schedule.

    The fields keep their values if the schedule is a list or invalid, which they cannot show.
    """
    if not isinstance(schedule, dict) or schedule.get("kind") not in schedule_kinds.KEYS:
        return [gr.skip()] * 5
    kind = schedule["kind"]
    special = (
        [name for name in schedule.get("special", ()) if name in names]
        if isinstance(schedule.get("special"), list)
        else []
    )
    shares = schedule.get("hold" if kind == "proportions" else "shares")
    k = schedule.get("k", [])
    values: tuple[dict[str, Any], ...] = (
        {"choices": names, "value": special},
        {
            "value": ", ".join(f"{name} {share}" for name, share in shares.items())
            if isinstance(shares, dict)
            else ""
        },
        {"value": " ".join(map(str, k if isinstance(k, list) else [k]))},
        {"value": schedule.get("single") is True},
    )
    return [
        kind,
        *({**field, **value} for field, value in zip(schedule_fields(kind), values, strict=True)),
    ]


def schedule_fields(kind: str) -> list[Any]:
    """Returns updates that show the fields of a kind of schedule: special, shares, k, single."""
    study = kind == "proportions"
    label = "Fixed shares, e.g. general 1" if study else "Shares, e.g. math 1, code 1/4"
    return [
        gr.update(visible=kind in ("mixed_sequential", "dmt")),
        gr.update(
            visible=kind in ("mixing", "proportions"),
            label=label,
            placeholder="none" if study else "all of each",
        ),
        gr.update(
            visible=kind in ("dmt", "proportions"),
            placeholder="1 1/4 1/16 1/64 1/256" if study else "1/256",
        ),
        gr.update(visible=kind == "proportions"),
    ]


def check_html(session: Session, text: str) -> Markup:
    """Returns the problems of a plan with their lines, or the steps that it consists of."""
    try:
        plan = plan_files.check(session.workdir, session.folders, text)
        steps = plan.steps
    except Exception as error:
        if not is_user_error(error):
            log.exception("a plan could not be read")
            return markup.message(UNEXPECTED, "problem")
        faults = [
            line.removeprefix("plan, ").removeprefix("plan: ") for line in str(error).splitlines()
        ]
        return markup.message("\n".join(faults), "problem", "This plan has errors")
    names = ", ".join(step.name for step in steps[:12]) + (
        f" and {len(steps) - 12} more" if len(steps) > 12 else ""
    )
    return markup.message(f"{len(steps)} step{'s' if len(steps) != 1 else ''}: {names}")


def first_plan(session: Session) -> str:
    """Returns the plan that a page starts with: on the open base and the open datasets."""
    models = [folder for folder in session.folders.models() if folder.kind == "model"]
    base = session.models.base.path if session.ready else models[0].path if models else None
    sources = session.folders.sources()
    data = session.models.data_folder if session.ready else None
    beside = [
        folder
        for folder in sources
        if data and folder.path.parent.resolve() == Path(data).resolve()
    ]
    chosen = {
        plan_form.source_name(folder.path, ()): display_path(folder.path) for folder in beside
    }
    return plan_text.new(
        display_path(base) if base else "",
        chosen,
        plan_form.validation_sources(chosen, session.folders.holds),
    )


def plan_of_run(session: Session, run: str) -> str:
    """Returns the plan of an earlier run as it was written, else as it was run; "" without one."""
    from training.plan.finished_steps import PLAN

    files = (session.workdir.plan(run), session.workdir.run(run) / PLAN)
    # A plan may be a link, and its text is shown.
    own = Reach((session.workdir.root.resolve(), *session.folders.roots))
    readable = (file for file in files if own.holds(file) and file.is_file())
    return next((file.read_text("utf-8") for file in readable), "")


def _number(value: Any, otherwise: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
