"""What a search minimises: one number of the losses on all datasets, with its derivatives.

A derivative with respect to a loss, times that of the loss with respect to ω, gives the derivative
of the number with respect to ω.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

PENALTY = 10.0
"""What a whole unit above a limit costs. Scores are shares or nats of about 1, so a violation costs
ten times what it could gain."""

Losses = Mapping[str, float]
"""Dataset -> loss, in nats per token."""


class Objective(ABC):
    """A score of losses; lower is better."""

    @abstractmethod
    def score(self, losses: Losses, errors: Losses | None = None) -> float:
        """Returns the score.

        Args:
            losses: dataset -> loss.
            errors: dataset -> the standard error of its difference from the base's loss; None for
                losses that are expected and not measured.
        """

    @abstractmethod
    def slope(self, losses: Losses) -> dict[str, float]:
        """Returns, by dataset, the derivative of the score with respect to its loss."""


@dataclass(frozen=True)
class Weighted(Objective):
    """Σ weight · (loss − zero) / unit: the mean loss, or minus the mean share of gain.

    Worked example: base 1.0 and expert 0.2 make unit 0.8 and zero 1.0. A composition with loss 0.4
    scores (0.4 − 1.0) / 0.8 = −0.75: three quarters of the expert's gain.

    Attributes:
        weights: dataset -> its weight. Other datasets count nothing.
        zeros: dataset -> the loss that scores 0; 0 if not given.
        units: dataset -> the difference of losses that scores 1; 1 if not given.
    """

    weights: Mapping[str, float]
    zeros: Losses = field(default_factory=dict)
    units: Losses = field(default_factory=dict)

    def score(self, losses: Losses, errors: Losses | None = None) -> float:
        """Returns the weighted sum."""
        return sum(
            weight * (losses[name] - self.zeros.get(name, 0.0)) / self.units.get(name, 1.0)
            for name, weight in self.weights.items()
        )

    def slope(self, losses: Losses) -> dict[str, float]:
        """Returns weight / unit of each dataset."""
        return {name: weight / self.units.get(name, 1.0) for name, weight in self.weights.items()}


@dataclass(frozen=True)
class Worst(Objective):
    """max (loss − expert) / unit: how far the worst dataset is from its expert.

    Attributes:
        experts: dataset -> the loss of its expert.
        units: dataset -> the expert's gain.
    """

    experts: Losses
    units: Losses

    def score(self, losses: Losses, errors: Losses | None = None) -> float:
        """Returns the largest regret; 0 if all are as good as their experts."""
        return max(self._regrets(losses).values())

    def slope(self, losses: Losses) -> dict[str, float]:
        """Returns 1 / unit for the worst dataset: a subgradient where several are equal."""
        regrets = self._regrets(losses)
        worst = max(regrets, key=regrets.__getitem__)
        return {worst: 1 / self.units[worst]}

    def _regrets(self, losses: Losses) -> dict[str, float]:
        return {
            name: (losses[name] - expert) / self.units[name]
            for name, expert in self.experts.items()
        }


@dataclass(frozen=True)
class Limited(Objective):
    """Another objective, with a penalty for each loss above its limit.

    A measured loss may be above by its error, which is given with it. One that is only expected may
    not: a search that aimed at the edge of the errors would end beyond it.

    Attributes:
        objective: what counts below the limits.
        limits: dataset -> the highest loss that costs nothing.
        units: dataset -> the difference of losses that costs PENALTY; 1 if not given.
    """

    objective: Objective
    limits: Losses
    units: Losses = field(default_factory=dict)

    def score(self, losses: Losses, errors: Losses | None = None) -> float:
        """Returns the objective's score plus the penalties.

        Args:
            losses: dataset -> loss.
            errors: dataset -> the standard error of the loss above its limit; 0 if not given.
        """
        return self.objective.score(losses, errors) + PENALTY * sum(
            (losses[name] - self.limits[name] - (errors or {}).get(name, 0.0))
            / self.units.get(name, 1.0)
            for name in self.exceeded(losses, errors)
        )

    def slope(self, losses: Losses) -> dict[str, float]:
        """Returns the sum of both slopes."""
        slope = self.objective.slope(losses)
        for name in self.exceeded(losses):
            slope[name] = slope.get(name, 0.0) + PENALTY / self.units.get(name, 1.0)
        return slope

    def exceeded(self, losses: Losses, errors: Losses | None = None) -> list[str]:
        """Returns the datasets whose losses are above their limits, beyond their errors."""
        allowed = errors or {}
        return [
            name
            for name, limit in self.limits.items()
            if losses[name] > limit + allowed.get(name, 0.0)
        ]


def mean_loss(datasets: Mapping[str, object]) -> Weighted:
    """Returns the mean loss over datasets, each counting alike."""
    return Weighted(dict.fromkeys(datasets, 1 / len(datasets)))


def mean_share(
    base: Losses, experts: Losses, weights: Mapping[str, float] | None = None
) -> Weighted:
    """Returns minus the mean share of each expert's gain, so that no dataset decides by its size.

    Args:
        base: dataset -> loss of the base; datasets without an expert are ignored.
        experts: dataset -> loss of its own expert.
        weights: dataset -> its preference, 1 for those that are left out.

    Raises:
        ValueError: no expert is better than the base.
    """
    units = gains(base, experts)
    preferences = {name: (weights or {}).get(name, 1.0) for name in units}
    total = sum(preferences.values())
    if total <= 0:
        raise ValueError("the preferences of the datasets with an expert sum to 0.")
    shares = {name: preference / total for name, preference in preferences.items()}
    return Weighted(shares, {name: base[name] for name in units}, units)


def worst_regret(base: Losses, experts: Losses) -> Worst:
    """Returns the largest share of an expert's gain that is missing; see Worst.

    Raises:
        ValueError: no expert is better than the base.
    """
    units = gains(base, experts)
    return Worst({name: experts[name] for name in units}, units)


def gains(base: Losses, experts: Losses) -> dict[str, float]:
    """Returns by how much each expert is better than the base; one that is not better is left out.

    Raises:
        ValueError: none is better.
    """
    better = {name: base[name] - loss for name, loss in experts.items() if loss < base[name] - 1e-9}
    if not better:
        raise ValueError(
            "no expert is better than the base on the dataset with its name, so there is no gain "
            "to share. Name the vectors as their datasets, or minimise the mean loss."
        )
    return better
