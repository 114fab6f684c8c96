"""The prices of the parts of DEM and of data mixing, from the cost ledger: trainings, and validation sweeps.

Each cost says whether all of it was measured. What was not yet paid is projected at the mean of what was paid.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from evaluation.records.ledger import Phase, trainings

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
    ends: Sequence[float] = ()
    """Each of the base or an expert alone: no tries, for both ways begin there; they tell what a sweep costs."""
    notes: Sequence[str] = ()
    """What a reader should know of these prices."""

    def __post_init__(self) -> None:
        if not self.experts:
            raise ValueError(
                "no expert is named; the cost of DEM is that of at least one training per dataset"
            )
        for value in (
            *self.experts.values(),
            *self.mixing,
            *self.tries,
            *self.validations,
            *self.ends,
        ):
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
    def sweep(self) -> float | None:
        """What a try that was not yet paid is projected to cost: as those that were, else as an end; None if not known."""
        known = self.tries or self.ends
        return _mean(known) if known else None

    @property
    def sweeps_of_mixed(self) -> Sequence[float]:
        """The validation sweeps of mixed models; if there are none, those of merges, which cost DEM exactly as much."""
        projected = () if self.sweep is None else (self.sweep,)
        return self.validations or self.tries or projected

    @property
    def slope(self) -> float | None:
        """What one more setting costs mixing beyond what it costs DEM, past all that was measured; None if not known."""
        if self.trained is None or self.sweep is None:
            return None
        return math.fsum((_mean(self.runs), _mean(self.sweeps_of_mixed), -self.sweep))

    def dem(self, settings: int) -> Cost | None:
        """All experts, and so many sweeps; None while an expert or every sweep is missing."""
        return self._with_tries(self.trained, settings)

    def mixed(self, settings: int) -> Cost | None:
        """So many trainings on mixed data, each with a sweep; None while no price of either is known."""
        if not self.runs or not self.sweeps_of_mixed:
            return None
        parts = self.runs, self.sweeps_of_mixed
        value = math.fsum(_sum(costs, settings, _mean(costs)) for costs in parts)
        return Cost(value, _how(min(len(self.mixing), len(self.validations)), settings))

    def changed(self, dataset: str, settings: int) -> tuple[Cost | None, Cost | None]:
        """After adding or changing one dataset: DEM trains its expert and tries anew; mixing starts again in full.

        Raises:
            KeyError: no expert of this name.
        """
        return self._with_tries(self.experts[dataset], settings), self.mixed(settings)

    def _with_tries(self, trained: float | None, settings: int) -> Cost | None:
        if trained is None or self.sweep is None:
            return None
        return Cost(
            trained + _sum(self.tries, settings, self.sweep), _how(len(self.tries), settings)
        )


def prices(
    phases: Sequence[Phase],
    experts: Sequence[str],
    mixing: Sequence[str] = (),
    *,
    examples: int,
    mixed_digests: Iterable[str] = (),
    end_digests: Iterable[str] = (),
    unit: Unit = "device_seconds",
) -> Prices:
    """The prices in a ledger.

    Args:
        phases: all of them, oldest first.
        experts: the trainings of the experts, by name or by the folder that they made; the last one of that name counts.
        mixing: those on mixed data, likewise.
        examples: of a whole validation sweep; a phase of fewer is none.
        mixed_digests: digests under which models trained on mixed data were evaluated.
        end_digests: those of the base and of experts alone; all others are tries of ω.
        unit: which of the two times.
    """
    done = trainings(phases)
    last = {
        name: [found for found in done if found.is_called(name)] for name in (*experts, *mixing)
    }
    notes = [
        f"the training of {name} is not in the ledger" for name, found in last.items() if not found
    ]
    used = [found[-1] for found in last.values() if found]
    tries: list[float] = []
    validations: list[float] = []
    ends: list[float] = []
    others = dict.fromkeys(mixed_digests, validations) | dict.fromkeys(end_digests, ends)
    devices = {training.device for training in used}
    for phase in phases:
        swept = (
            phase.kind == "evaluation" and phase.name == LOSSES and phase.examples >= examples > 0
        )
        if not (phase.complete and (swept or phase.kind == "search")):
            continue
        parts = [getattr(phase, unit) / phase.settings] * phase.settings
        others.get(phase.digest, tries).extend(parts)
        devices.add(phase.device)
    if len(devices) > 1:
        notes.append(f"seconds of different devices are added up: {', '.join(sorted(devices))}")
    costs = {name: getattr(found[-1], unit) if found else None for name, found in last.items()}
    ran = [cost for name in mixing if (cost := costs[name]) is not None]
    return Prices({name: costs[name] for name in experts}, ran, tries, validations, ends, notes)


def _sum(costs: Sequence[float], count: int, price: float) -> float:
    """The first `count` costs, those not yet paid at a price."""
    return math.fsum(costs[:count]) + max(0, count - len(costs)) * price


def _how(paid: int, count: int) -> How:
    return "measured" if paid >= count else "projected"


def _mean(costs: Sequence[float]) -> float:
    return math.fsum(costs) / len(costs)
