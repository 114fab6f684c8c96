"""Plan: a base, its sources, the settings and the schedules, as a frozen value.

`training.plan.plan_file` reads it from YAML:

    base: models/llama
    sources:
      math: data/math.jsonl
      code: {path: data/code, split: train, share: 1/2}
      general: {path: org/chats, revision: main}
    validation:
      math: data/math.validation.jsonl
    settings: {epochs: 3, rate: 2e-5, batch: 16}
    schedule: {kind: dmt, special: [math, code], general: [general], k: 1/256}

`schedule` may be a list; the steps that two schedules share are trained once. The keys of each
kind of schedule are in training.plan.schedule_kinds, the settings in training.plan.settings. A path
is looked up from the working directory, then from the plan's folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from corpus.reach import ANYWHERE, Reach
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
        sources: name -> the source of its records.
        schedules: the schedules as training.plan.schedule_reader reads them.
        validation: name -> a dataset on which the loss is measured. Each step is measured on the
            validation sets of its own sources, and on every set that belongs to no source.
        settings: the settings of every step; see training.plan.settings.
        subset_seed: seed that decides which examples a share takes. It is separate from
            settings["seed"], so that two runs can differ in one of them only.
        faults: the line of each value in the text, for messages about it.
        reach: what its data and its base may be read from.
    """

    base: str
    sources: Mapping[str, Source]
    schedules: tuple[schedule_kinds.Entry, ...]
    validation: Mapping[str, Source] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    subset_seed: int = 0
    faults: Faults = field(default_factory=Faults, compare=False, repr=False)
    reach: Reach = field(default=ANYWHERE, compare=False, repr=False)

    @property
    def steps(self) -> list[Step]:
        """The steps of all schedules, each once, parents first.

        Raises:
            TrainingError: two different steps have the same name.
        """
        return merge_schedules(schedule_kinds.steps(entry) for entry in self.schedules)

    def settings_of(self, step: Step) -> dict[str, Any]:
        """Returns the settings of a step: its own override the plan's."""
        return schedule_kinds.merge_settings(self.settings, step.settings)

    def every_settings(self) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
        """Yields all settings that the plan holds, each with its keys in the YAML."""
        yield ("settings",), self.settings
        for number, entry in enumerate(self.schedules):
            # Only a list of schedules has number 0 among its keys; a single schedule has none.
            keys: Keys = (
                ("schedule", number) if ("schedule", 0) in self.faults.lines else ("schedule",)
            )
            yield (*keys, "settings"), entry["settings"]
            for name, own in entry["each"].items():
                yield (*keys, "each", name), own
