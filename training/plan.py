"""Plan: what is trained, on what, in which order, as a frozen value read from a YAML file.

    base: models/llama
    sources:
      math: data/math.jsonl
      code: {path: data/code, split: train, share: 1/2}
      general: {path: org/chats, revision: main}
    validation:
      math: data/math.validation.jsonl
    settings: {epochs: 3, rate: 2e-5, batch: 16}
    schedule: {kind: dmt, special: [math, code], general: [general], k: 1/256}

`schedule` may be a list: the steps that two schedules share are trained once. The keys of each kind are in
training.kinds, the settings in training.settings. Paths are relative to the working directory, else to the plan's folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus.source import Source
from training import entries, kinds, settings
from training.errors import TrainingError
from training.schedule import Step, joined
from training.strict_yaml import Faults, Place, dump, nearest, parse

KEYS = ("base", "sources", "validation", "settings", "schedule", "subset_seed")


@dataclass(frozen=True)
class Plan:
    """A whole training: one base, named sources, and the schedules of steps on them.

    Attributes:
        base: folder of the checkpoint that every first step starts from.
        sources: name -> where its records come from.
        schedules: as training.kinds.Reader reads them.
        validation: name -> records on which the loss is measured. A step measures those that are named like its sources,
            and those that are named like no source at all.
        settings: for every step; see training.settings.
        subset_seed: which examples a share takes. Apart from settings["seed"], so that runs may differ in one alone.
        faults: what the text said where, for messages about it.
    """

    base: str
    sources: Mapping[str, Source]
    schedules: tuple[kinds.Entry, ...]
    validation: Mapping[str, Source] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    subset_seed: int = 0
    faults: Faults = field(default_factory=Faults, compare=False, repr=False)

    @classmethod
    def read(cls, path: Path | str) -> Plan:
        """The plan of a file.

        Raises:
            PlanError: with everything that is wrong, in the plan and in the files that it names.
            TrainingError: the file cannot be read.
        """
        path = Path(path)
        try:
            text = path.read_bytes().decode("utf-8")
        except OSError as error:
            raise TrainingError(f"{path}: cannot be read ({error.strerror}). Give a plan, a YAML file.") from None
        except UnicodeDecodeError as error:
            raise TrainingError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from None
        return cls.parse(text, home=path.parent, file=str(path))

    @classmethod
    def parse(cls, text: str, *, home: Path | None = None, file: str = "plan") -> Plan:
        """The plan of a text.

        Args:
            text: YAML.
            home: where paths begin that are not found from the working directory.
            file: what messages call it.

        Raises:
            PlanError: as `read`.
        """
        from training.material import check_base, load_all

        faults = Faults(file)
        document = parse(text, faults)
        faults.raise_any()
        plan = _read(document, home, faults)
        if faults.found:  # nothing can be trained: say as well what the files would have been refused for
            check_base(plan, faults)
            load_all(plan, faults, local=True)
        faults.raise_any()
        return plan

    @property
    def steps(self) -> list[Step]:
        """The steps of all schedules, each once, parents first.

        Raises:
            TrainingError: one name for two different steps.
        """
        return joined(kinds.steps(entry) for entry in self.schedules)

    def settings_of(self, step: Step) -> dict[str, Any]:
        """The plan's settings with the step's own over them."""
        return kinds.merged(self.settings, step.settings)

    def every_settings(self) -> Iterator[tuple[Place, Mapping[str, Any]]]:
        """Each place where the plan holds settings, with them."""
        yield ("settings",), self.settings
        for number, entry in enumerate(self.schedules):
            place: Place = ("schedule", number) if ("schedule", 0) in self.faults.lines else ("schedule",)
            yield (*place, "settings"), entry["settings"]
            for name, own in entry["each"].items():
                yield (*place, "each", name), own

    def to_yaml(self) -> str:
        """The text from which `parse` reads an equal plan."""
        document: dict[str, Any] = {"base": self.base}
        for section, sources in (("sources", self.sources), ("validation", self.validation)):
            if sources:
                split = entries.SPLITS[section]
                document[section] = {name: entries.written(source, split) for name, source in sources.items()}
        if self.settings:
            document["settings"] = entries.plain(self.settings)
        written = [kinds.written(entry) for entry in self.schedules]
        document["schedule"] = written[0] if len(written) == 1 else written
        if self.subset_seed:
            document["subset_seed"] = self.subset_seed
        return dump(document)


def _read(document: dict[str, Any], home: Path | None, faults: Faults) -> Plan:
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
        entries.sources(document[section], section, home, faults) if section in document else {}
        for section in entries.SPLITS
    )

    def read_settings(given: Any, place: Place) -> dict[str, Any]:
        return settings.read(given, place, reader, home)

    reader = kinds.Reader(tuple(sources), faults, read_settings)
    shared = reader.settings(document.get("settings"), ("settings",))
    seed = document.get("subset_seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        faults.add(("subset_seed",), f"is {seed!r}, expected a whole number.")
    return Plan(
        base=entries.found_from(base, home),
        sources=sources,
        schedules=_schedules(document["schedule"], reader) if "schedule" in document else (),
        validation=validation,
        settings=shared,
        subset_seed=seed,
        faults=faults,
    )


def _schedules(given: Any, reader: kinds.Reader) -> tuple[kinds.Entry, ...]:
    listed = isinstance(given, list)
    places: list[tuple[Place, Any]] = (
        [(("schedule", number), one) for number, one in enumerate(given)] if listed else [(("schedule",), given)]
    )
    if not places:
        reader.faults.add(("schedule",), "is an empty list, expected at least one schedule, such as {kind: experts}.")
    read = [reader.schedule(one, place) for place, one in places]
    return tuple(entry for entry in read if entry is not None)
