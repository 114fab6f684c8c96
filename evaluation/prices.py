"""The prices of the parts of DEM and of data mixing, from the cost ledger: trainings, and validation sweeps.

Each cost says whether all of it was measured. What was not yet paid is projected at the mean of what was paid.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from evaluation.cost import Phase, trainings

How = Literal["measured", "projected"]
Unit = Literal["device_seconds", "wall_seconds"]
LOSSES = "losses"
"""The name of an evaluation phase that measures losses on whole validation sets."""


class Cost(NamedTuple):
    """An amount, and whether all of it was measured."""

    value: float
    how: How


@dataclass(frozen=True)
class Prices:
    """What is known of the parts, in seconds (or any one unit of cost).

    Raises:
        ValueError: no expert, or a price that is negative or no number.
    """

    experts: Mapping[str, float | None]
    """Per dataset the training of its expert; None where it was not recorded."""
    mixing: Sequence[float] = ()
    """Each training on mixed data, in the order in which they ran."""
    tries: Sequence[float] = ()
    """Each validation sweep of a merge: composing it, and its loss on every dataset."""
    validations: Sequence[float] = ()
    """Each validation sweep of a model trained on mixed data."""
    notes: Sequence[str] = ()
    """What a reader should know of these prices."""

    def __post_init__(self) -> None:
        if not self.experts:
            raise ValueError("no expert is named; the cost of DEM is that of at least one training per dataset")
        for value in (*self.experts.values(), *self.mixing, *self.tries, *self.validations):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"a price is {value}; give finite amounts from 0")

    @property
    def trained(self) -> float | None:
        """Σ c(D_i); None while one of them is missing."""
        known = [value for value in self.experts.values() if value is not None]
        return math.fsum(known) if len(known) == len(self.experts) else None

    @property
    def runs(self) -> Sequence[float]:
        """The trainings on mixed data; if none ran, one of Σ c(D_i), which sees the same examples; () if not known."""
        projected = () if self.trained is None else (self.trained,)
        return self.mixing or projected

    @property
    def sweeps_of_mixed(self) -> Sequence[float]:
        """The validation sweeps of mixed models; if there are none, those of merges, which cost DEM exactly as much."""
        return self.validations or self.tries

    @property
    def slope(self) -> float | None:
        """What one more setting costs mixing beyond what it costs DEM, past all that was measured; None if not known."""
        if self.trained is None or not self.tries:
            return None
        return math.fsum((_mean(self.runs), _mean(self.sweeps_of_mixed), -_mean(self.tries)))

    def dem(self, settings: int) -> Cost | None:
        """All experts, and so many sweeps; None while an expert or every sweep is missing."""
        return None if self.trained is None else _plus(self.trained, self.tries, settings)

    def mixed(self, settings: int) -> Cost | None:
        """So many trainings on mixed data, each with a sweep; None while no price of either is known."""
        if not self.runs or not self.sweeps_of_mixed:
            return None
        value = _sum(self.runs, settings) + _sum(self.sweeps_of_mixed, settings)
        return Cost(value, _how(min(len(self.mixing), len(self.validations)), settings))

    def changed(self, dataset: str, settings: int) -> tuple[Cost | None, Cost | None]:
        """After adding or changing one dataset: DEM trains its expert and tries anew; mixing starts again in full.

        Raises:
            KeyError: no expert of this name.
        """
        expert = self.experts[dataset]
        return None if expert is None else _plus(expert, self.tries, settings), self.mixed(settings)


def prices(
    phases: Sequence[Phase],
    experts: Sequence[str],
    mixing: Sequence[str] = (),
    *,
    examples: int,
    mixed_digests: Iterable[str] = (),
    unit: Unit = "device_seconds",
) -> Prices:
    """The prices in a ledger.

    Args:
        phases: all of them, oldest first.
        experts: the trainings of the experts, by name or by the folder that they made; the last one of that name counts.
        mixing: those on mixed data, likewise.
        examples: of a whole validation sweep; a phase of fewer is none.
        mixed_digests: digests under which models trained on mixed data were evaluated; all others are tries of ω.
        unit: which of the two times.
    """
    done = trainings(phases)
    last = {name: [found for found in done if found.is_called(name)] for name in (*experts, *mixing)}
    notes = [f"the training of {name} is not in the ledger" for name, found in last.items() if not found]
    used = [found[-1] for found in last.values() if found]
    mixed = frozenset(mixed_digests)
    tries: list[float] = []
    validations: list[float] = []
    devices = {training.device for training in used}
    for phase in phases:
        swept = phase.kind == "evaluation" and phase.name == LOSSES and phase.examples >= examples > 0
        if not (phase.complete and (swept or phase.kind == "search")):
            continue
        parts = [getattr(phase, unit) / phase.settings] * phase.settings
        (validations if phase.digest in mixed else tries).extend(parts)
        devices.add(phase.device)
    if len(devices) > 1:
        notes.append(f"seconds of different devices are added up: {', '.join(sorted(devices))}")
    costs = {name: getattr(found[-1], unit) if found else None for name, found in last.items()}
    ran = [cost for name in mixing if (cost := costs[name]) is not None]
    return Prices({name: costs[name] for name in experts}, ran, tries, validations, notes)


def _plus(fixed: float, costs: Sequence[float], count: int) -> Cost | None:
    return Cost(fixed + _sum(costs, count), _how(len(costs), count)) if costs else None


def _sum(costs: Sequence[float], count: int) -> float:
    """The first `count` of one or more costs, those not yet paid at the mean of the paid ones."""
    return math.fsum(costs[:count]) + max(0, count - len(costs)) * _mean(costs)


def _how(paid: int, count: int) -> How:
    return "measured" if paid >= count else "projected"


def _mean(costs: Sequence[float]) -> float:
    return math.fsum(costs) / len(costs)
