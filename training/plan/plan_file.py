"""Reads a plan from YAML, with every fault reported at once, and writes it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corpus.reach import ANYWHERE, Reach
from plumbing.strict_yaml import Keys, dump
from plumbing.suggest import nearest
from training.errors import TrainingError
from training.plan import schedule_kinds, settings
from training.plan import sources as entries
from training.plan.faults import Faults, read_document
from training.plan.material import check_base, load_all
from training.plan.plan import Plan
from training.plan.schedule_reader import ScheduleReader

KEYS = ("base", "sources", "validation", "settings", "schedule", "subset_seed")


def read_plan(path: Path | str, reach: Reach = ANYWHERE) -> Plan:
    """Reads a plan from a YAML file.

    Args:
        path: the file.
        reach: what the plan may name; see parse_plan.

    Raises:
        PlanError: with everything that is wrong, in the plan and in the files that it names.
        TrainingError: the file cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be read ({error.strerror}). Give a plan, a YAML file."
        ) from None
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8."
        ) from None
    return parse_plan(text, home=path.parent, file=str(path), reach=reach)


def parse_plan(
    text: str, *, home: Path | None = None, file: str = "plan", reach: Reach = ANYWHERE
) -> Plan:
    """Parses a plan from YAML text.

    Args:
        text: YAML.
        home: folder from which relative paths are looked up that do not exist from the working
            directory.
        file: name of the file in messages.
        reach: which files and folders the plan may name, and whether datasets of the hub. No other
            file is opened or looked at, now or when the plan is carried out.

    Raises:
        PlanError: with everything that is wrong, in the plan and in the files that it names.
    """
    faults = Faults(file)
    document = read_document(text, faults)
    faults.raise_any()
    plan = _read(document, entries.Lookup(home, reach), faults)
    if faults.messages:
        # The plan is refused anyway, so the files on this disk are checked at once. Otherwise their
        # faults would be reported only after the next attempt.
        check_base(plan, faults)
        load_all(plan, faults, local=True)
    faults.raise_any()
    return plan


def plan_yaml(plan: Plan) -> str:
    """Returns the YAML text from which `parse_plan` reads an equal plan."""
    document: dict[str, Any] = {"base": plan.base}
    for section, sources in (("sources", plan.sources), ("validation", plan.validation)):
        if sources:
            split = entries.SPLITS[section]
            document[section] = {
                name: entries.source_yaml(source, split) for name, source in sources.items()
            }
    if plan.settings:
        document["settings"] = entries.plain_value(plan.settings)
    schedules = [schedule_kinds.schedule_yaml(entry) for entry in plan.schedules]
    document["schedule"] = schedules[0] if len(schedules) == 1 else schedules
    if plan.subset_seed:
        document["subset_seed"] = plan.subset_seed
    return dump(document)


def _read(document: dict[str, Any], lookup: entries.Lookup, faults: Faults) -> Plan:
    """Reads a plan from the values of its YAML; faults are collected, and defaults replace them."""
    for key in document:
        if key not in KEYS:
            faults.add((key,), f"unknown key; {nearest(key, list(KEYS))}")
    for key in ("base", "sources", "schedule"):
        if key not in document:
            faults.add((), f"{key} is missing.")
    base = document.get("base", "")
    if not isinstance(base, str):
        faults.add(("base",), f"is {base!r}, expected the folder of a checkpoint.")
        base = ""
    sources, validation = (
        entries.sources(document[section], section, lookup, faults) if section in document else {}
        for section in entries.SPLITS
    )

    # The reader of schedules reads settings, and the reader of settings reads names of sources.
    def read_settings(raw: Any, keys: Keys) -> dict[str, Any]:
        return settings.read(raw, keys, reader, lookup)

    reader = ScheduleReader(tuple(sources), faults, read_settings)
    shared = reader.settings(document.get("settings"), ("settings",))
    seed = document.get("subset_seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        faults.add(("subset_seed",), f"is {seed!r}, expected a whole number.")
    return Plan(
        base=lookup.check(base, ("base",), faults),
        sources=sources,
        schedules=_schedules(document["schedule"], reader) if "schedule" in document else (),
        validation=validation,
        settings=shared,
        subset_seed=seed,
        faults=faults,
        reach=lookup.reach,
    )


def _schedules(raw: Any, reader: ScheduleReader) -> tuple[schedule_kinds.Entry, ...]:
    """Reads one schedule or a list of them; schedules of unknown kind are left out."""
    raw_by_keys: list[tuple[Keys, Any]] = (
        [(("schedule", number), item) for number, item in enumerate(raw)]
        if isinstance(raw, list)
        else [(("schedule",), raw)]
    )
    if not raw_by_keys:
        reader.faults.add(
            ("schedule",),
            "is an empty list, expected at least one schedule, such as {kind: experts}.",
        )
    entries = [reader.schedule(item, keys) for keys, item in raw_by_keys]
    return tuple(entry for entry in entries if entry is not None)
