"""Plan: what is trained, on what, in which order, as a frozen value; `plan_file` reads it from YAML.

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
training.plan.schedule_kinds, the settings in training.plan.settings. Paths are relative to the working directory, else to the plan's folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from corpus.source import Source
from plumbing.strict_yaml import Keys
from training.plan import schedule_kinds
from training.plan.faults import Faults
from training.plan.schedules import Step, merge_schedules


@dataclass(frozen=True)
class Plan:
    """A whole training: one base, named sources, and the schedules of steps on them.

    Attributes:
        base: folder of the checkpoint that every first step starts from.
        sources: name -> where its records come from.
        schedules: as training.plan.schedule_kinds.Reader reads them.
        validation: name -> records on which the loss is measured. A step measures those that are named like its sources,
            and those that are named like no source at all.
        settings: for every step; see training.plan.settings.
        subset_seed: which examples a share takes. Apart from settings["seed"], so that runs may differ in one alone.
        faults: what the text said where, for messages about it.
    """

    base: str
    sources: Mapping[str, Source]
    schedules: tuple[schedule_kinds.Entry, ...]
    validation: Mapping[str, Source] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    subset_seed: int = 0
    faults: Faults = field(default_factory=Faults, compare=False, repr=False)

    @property
    def steps(self) -> list[Step]:
        """The steps of all schedules, each once, parents first.

        Raises:
            TrainingError: one name for two different steps.
        """
        return merge_schedules(schedule_kinds.steps(entry) for entry in self.schedules)

    def settings_of(self, step: Step) -> dict[str, Any]:
        """The plan's settings with the step's own over them."""
        return schedule_kinds.merged(self.settings, step.settings)

    def every_settings(self) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
        """Each place where the plan holds settings, with them."""
        yield ("settings",), self.settings
        for number, entry in enumerate(self.schedules):
            place: Keys = (
                ("schedule", number) if ("schedule", 0) in self.faults.lines else ("schedule",)
            )
            yield (*place, "settings"), entry["settings"]
            for name, own in entry["each"].items():
                yield (*place, "each", name), own
