"""Prices of the parts of DEM and of data mixing: trainings and validation sweeps, from the ledger.

Each cost says whether all of it was measured. A part that was not paid yet is projected at the mean
of the parts that were.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from evaluation.records.ledger import Phase, Training, trainings

How = Literal["measured", "projected"]
Unit = Literal["device_seconds", "wall_seconds"]
LOSSES = "losses"
"""Name of an evaluation phase that measures losses on whole validation sets."""


class Cost(NamedTuple):
    """An amount, in the unit of the prices."""

    value: float
    how: How
    """Whether all of the amount was measured, or some of it is projected."""


@dataclass(frozen=True)
class Prices:
    """The known costs of all parts, in seconds or any other single unit.

    Raises:
        ValueError: there is no expert, or a price is negative, infinite or NaN.
    """

    experts: Mapping[str, float | None]
    """Dataset -> the training of its expert; None if it was not recorded."""
    mixing: Sequence[float] = ()
    """The trainings on mixed data, in the order in which they ran."""
    tries: Sequence[float] = ()
    """The validation sweeps of merges. A sweep composes the merge and computes all its losses."""
    validations: Sequence[float] = ()
    """The validation sweeps of models trained on mixed data."""
    ends: Sequence[float] = ()
    """The validation sweeps of the base and of single experts.

    They are not attempts at ω, because DEM and mixing both start from them; they only show what one
    sweep costs.
    """
    notes: Sequence[str] = ()
    """Sentences on these prices for the reader of the table."""

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
        """Σ c(D_i), the cost of all experts; None if one of them is missing."""
        recorded = [value for value in self.experts.values() if value is not None]
        return math.fsum(recorded) if len(recorded) == len(self.experts) else None

    @property
    def runs(self) -> Sequence[float]:
        """The costs of the trainings on mixed data.

        If none ran, one is assumed to cost Σ c(D_i), because it sees the same examples. () if that
        is not known either.
        """
        projected = () if self.trained is None else (self.trained,)
        return self.mixing or projected

    @property
    def sweep(self) -> float | None:
        """The projected cost of another try; None if no sweep was paid.

        It is the mean of the tries, or the mean of the ends if there is no try.
        """
        paid = self.tries or self.ends
        return _mean(paid) if paid else None

    @property
    def sweeps_of_mixed(self) -> Sequence[float]:
        """The validation sweeps of mixed models; if there are none, those of merges.

        One sweep is assumed to cost mixing as much as it costs DEM.
        """
        projected = () if self.sweep is None else (self.sweep,)
        return self.validations or self.tries or projected

    @property
    def slope(self) -> float | None:
        """How much more one further setting costs mixing than DEM, beyond those that were measured.

        None if not known.
        """
        if self.trained is None or self.sweep is None:
            return None
        return math.fsum((_mean(self.runs), _mean(self.sweeps_of_mixed), -self.sweep))

    def dem(self, settings: int) -> Cost | None:
        """Returns the cost of all experts and `settings` sweeps of merges; None if not known."""
        return self._with_tries(self.trained, settings)

    def mixed(self, settings: int) -> Cost | None:
        """Returns the cost of `settings` trainings on mixed data, each with its sweep.

        None if there is no price of a training, or none of a sweep.
        """
        if not self.runs or not self.sweeps_of_mixed:
            return None
        parts = self.runs, self.sweeps_of_mixed
        value = math.fsum(_sum(costs, settings, _mean(costs)) for costs in parts)
        # A setting is measured only if both its training and its sweep are.
        return Cost(value, _how(min(len(self.mixing), len(self.validations)), settings))

    def changed(self, dataset: str, settings: int) -> tuple[Cost | None, Cost | None]:
        """Returns the costs of DEM and of mixing after one dataset was added or changed.

        DEM trains the expert of this dataset and tries ω anew; mixing starts again in full.

        Args:
            dataset: name of the dataset.
            settings: how many settings are tried.

        Raises:
            KeyError: there is no expert for this dataset.
        """
        return self._with_tries(self.experts[dataset], settings), self.mixed(settings)

    def _with_tries(self, trained: float | None, settings: int) -> Cost | None:
        """Returns the cost of trainings that cost `trained` and `settings` sweeps of merges."""
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
    """Reads the prices from a ledger.

    Args:
        phases: all phases of the ledger, oldest first.
        experts: the trainings of the experts, each by its name or by the folder that it made. If
            there are several of one name, the last one counts.
        mixing: the trainings on mixed data, in the same way.
        examples: number of examples in a whole validation sweep. A phase with fewer is no sweep.
        mixed_digests: digests under which models trained on mixed data were evaluated.
        end_digests: digests of the base and of single experts. All others are tries of ω.
        unit: which of a phase's two times is its price.
    """
    finished = trainings(phases)
    last: dict[str, Training | None] = {}
    for name in (*experts, *mixing):
        called = [training for training in finished if training.is_called(name)]
        # A step may have been trained again; its folder holds the last result.
        last[name] = called[-1] if called else None
    notes = [
        f"the training of {name} is not in the ledger"
        for name, training in last.items()
        if training is None
    ]
    used = [training for training in last.values() if training is not None]
    tries: list[float] = []
    validations: list[float] = []
    ends: list[float] = []
    # A sweep belongs to the kind of model whose digest it has; all others are tries of ω.
    others = dict.fromkeys(mixed_digests, validations) | dict.fromkeys(end_digests, ends)
    devices = {training.device for training in used}
    for phase in phases:
        # Quick losses take fewer examples than a whole sweep, so they are no price of one.
        swept = (
            phase.kind == "evaluation" and phase.name == LOSSES and phase.examples >= examples > 0
        )
        if not (phase.complete and (swept or phase.kind == "search")):
            continue
        # A search is one phase with several settings: each counts as a sweep of the mean cost.
        parts = [getattr(phase, unit) / phase.settings] * phase.settings
        others.get(phase.digest, tries).extend(parts)
        devices.add(phase.device)
    if len(devices) > 1:
        notes.append(f"seconds of different devices are added up: {', '.join(sorted(devices))}")
    costs = {
        name: None if training is None else getattr(training, unit)
        for name, training in last.items()
    }
    mixed = [cost for name in mixing if (cost := costs[name]) is not None]
    return Prices({name: costs[name] for name in experts}, mixed, tries, validations, ends, notes)


def _sum(costs: Sequence[float], count: int, price: float) -> float:
    """Returns the sum of the first `count` costs; those that are not yet paid cost `price` each."""
    return math.fsum(costs[:count]) + max(0, count - len(costs)) * price


def _how(paid: int, count: int) -> How:
    return "measured" if paid >= count else "projected"


def _mean(costs: Sequence[float]) -> float:
    return math.fsum(costs) / len(costs)
