"""What a search is asked for: the objective, the method, its budget and its bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from workbench.errors import SessionError
from workbench.search.layer_groups import GROUP_BY, GroupBy
from workbench.session.models import OMEGA_RANGE
from workbench.session.standing import PLAIN, Choice, uniform

if TYPE_CHECKING:
    from evaluation.search import Space
    from evaluation.search.objective import Losses, Objective

Aim = Literal["share", "loss", "regret", "score", "front"]
Method = Literal[
    "surrogate", "gradient", "coordinate", "greedy", "grid", "simplex", "tpe", "gp", "nsga", "cma"
]
AIMS: tuple[Aim, ...] = get_args(Aim)
AIM_WORDS = {
    "share": "mean share",
    "loss": "mean loss",
    "regret": "largest regret",
    "score": "mean score",
    "front": "mean loss",
}
PERCENT: tuple[Aim, ...] = ("share", "regret")
"""The aims that are told in percent."""
METHODS: tuple[Method, ...] = get_args(Method)
SEVERAL_AIMS: tuple[Method, ...] = ("nsga", "gp")
"""The methods that can minimise several losses, each for itself."""


@dataclass(frozen=True)
class TaskAim:
    """Tasks of lm-eval that a search maximises.

    Attributes:
        tasks: their names; () for a suite.
        suite: the name of a suite; not used if tasks are given.
        limit: the first examples of each task that are used; None for all.
    """

    tasks: tuple[str, ...] = ()
    suite: str = ""
    limit: int | None = None

    @property
    def title(self) -> str:
        """What is run, for messages: "demo_cot, demo_sni, first 50"."""
        name = ", ".join(self.tasks) or self.suite
        return f"{name}, first {self.limit}" if self.limit else name


@dataclass(frozen=True)
class Wanted:
    """What to search for.

    Attributes:
        aim: "share": the mean share of each expert's gain; "loss": the mean loss; "regret": the
            largest share of an expert's gain that is missing; "score": the mean score of `bench`;
            "front": the loss of each dataset for itself, so that the result is a front. Its best
            is the composition with the lowest mean loss.
        method: the searcher.
        budget: the most evaluations; see workbench.search.points.GRADIENT_COST.
        low, high: the bounds of every ω.
        start: the first ω; 1 / n each if not given. The grid, simplex and greedy methods have none.
        frozen: vectors whose ω stays as `start` has it.
        reach: how far the ω of `start` may move; None for as far as the bounds.
        added: a vector that `reach` does not hold for.
        limited: whether no dataset may be worse than the base.
        weights: dataset -> its preference, for the aim "share"; 1 for those that are left out.
        levels: values of each ω for the grid and greedy methods, steps of the simplex.
        seed: of random starts.
        merge: the merge method, with the values of its parameters that stay.
        vary: parameter of the method -> the range in which it is searched too; None for all values
            that the method takes.
        groups: "depth" or "part": each group of layers gets ω of its own; see
            workbench.search.layer_groups. "" for one ω for each vector.
        highest_sum: Σω is at most this; None for no limit.
        highest_norm: ‖ΔΘ‖ is at most this share of ‖Θ‖; None for no limit.
        alone: whether it knows only the base and its own trials, so that searches can be compared;
            else it learns from all that was measured before.
        bench: the benchmark of the aim "score"; None for other aims.
        screened: whether a few examples of each point are measured first, and all of them only if
            the point may be the best; see workbench.search.screening.

    Raises:
        SessionError: an attribute is out of its range.
    """

    aim: Aim = "share"
    method: Method = "surrogate"
    budget: int = 40
    low: float = 0.0
    high: float = 1.0
    start: Mapping[str, float] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    reach: float | None = None
    added: str = ""
    limited: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)
    levels: int = 6
    seed: int = 0
    merge: Choice = PLAIN
    vary: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    groups: GroupBy = ""
    highest_sum: float | None = None
    highest_norm: float | None = None
    alone: bool = False
    bench: TaskAim | None = None
    screened: bool = False

    def __post_init__(self) -> None:
        from plumbing.suggest import nearest

        for value, known, what in ((self.aim, AIMS, "aim"), (self.method, METHODS, "method")):
            if value not in known:
                raise SessionError(
                    f"no {what} of a search is called {value!r}; {nearest(value, known)}"
                )
        lowest, highest = OMEGA_RANGE
        if not lowest <= self.low < self.high <= highest:
            raise SessionError(
                f"ω is searched from {self.low:g} to {self.high:g}; expected a lower and a higher "
                f"number within {lowest:g} and {highest:g}."
            )
        if self.reach is not None and not self.reach > 0:
            raise SessionError(f"ω may move by {self.reach:g}; expected a number above 0.")
        if bad := [name for name, weight in self.weights.items() if not 0 <= weight < math.inf]:
            raise SessionError(
                f"the preference of {bad[0]} is {self.weights[bad[0]]:g}; give 0 or more."
            )
        if self.weights and self.aim != "share":
            raise SessionError(f"preferences are for the aim share, and the aim is {self.aim}.")
        if self.budget < 1:
            raise SessionError(f"the budget is {self.budget} evaluations; expected at least 1.")
        if self.levels < 2:
            raise SessionError(f"{self.levels} values of each ω are no search; give 2 or more.")
        if self.groups not in GROUP_BY:
            hint = nearest(self.groups, GROUP_BY[1:])
            raise SessionError(f"layers are not grouped by {self.groups!r}; {hint}")
        for limit, what in ((self.highest_sum, "Σω"), (self.highest_norm, "‖ΔΘ‖ / ‖Θ‖")):
            if limit is not None and not 0 < limit < math.inf:
                raise SessionError(f"{what} may be at most {limit:g}; expected a number above 0.")
        if self.screened and self.method in ("surrogate", "gradient", "nsga"):
            raise SessionError(
                f"--few-first spares the losses of points that are not the best, and {self.method} "
                "learns from them. Leave it out, or use another method, such as coordinate."
            )
        if self.aim == "front" and (self.method not in SEVERAL_AIMS or self.screened):
            raise SessionError(
                "the aim front is the loss of each dataset for itself, and the search has the "
                f"method {self.method}{' and --few-first' if self.screened else ''}. "
                f"Use {' or '.join(SEVERAL_AIMS)}, without --few-first."
            )
        self._check_bench()
        self._check_merge()

    def _check_bench(self) -> None:
        """Raises SessionError if the benchmark does not fit the rest."""
        if (self.aim == "score") != (self.bench is not None):
            raise SessionError(
                "the aim score goes with a benchmark, and a benchmark with the aim score. "
                "Give --aim score with --tasks A,B or --suite NAME."
            )
        if self.bench and bool(self.bench.tasks) == bool(self.bench.suite):
            raise SessionError("give either tasks or a suite.")
        if self.bench and (self.screened or self.method == "gradient"):
            raise SessionError(
                "a benchmark has neither derivatives nor losses of single examples. "
                "Use another method, such as tpe, without --few-first."
            )

    def _check_merge(self) -> None:
        """Raises SessionError if the merge method does not fit the rest."""
        if self.groups and self.merge != PLAIN:
            raise SessionError(
                "ω for each group of layers are searched for Θ + Σ ωᵢ Δᵢ, and the recipe has the "
                f"method {self.merge.method}. Leave out --groups, or use task_arithmetic."
            )
        if (self.groups or self.vary) and self.method == "simplex":
            others = "those of groups of layers" if self.groups else f"ω and {', '.join(self.vary)}"
            raise SessionError(
                f"the simplex gives ω that sum to 1, which {others} do not. Choose another method, "
                "such as surrogate."
            )
        if self.highest_norm is not None and self.merge != PLAIN:
            raise SessionError(
                "the norm of an edit is known before it is measured for Θ + Σ ωᵢ Δᵢ only, and the "
                f"recipe has the method {self.merge.method}. Leave out --norm-at-most."
            )

    def options(self) -> list[str]:
        """Returns the options of `dem search` that ask for this, without those that are defaults.

        The start is that of the recipe, if there is one here.
        """
        plain = Wanted()
        words = []
        for name in ("method", "aim", "budget", "low", "high", "reach", "levels", "seed"):
            if (value := getattr(self, name)) != getattr(plain, name):
                text = f"{value:g}" if isinstance(value, float) else str(value)
                # A negative number would be read as an option.
                words.append(f"--{name}={text}")
        words += [f"--freeze={name}" for name in self.frozen]
        words += [f"--prefer={name}={weight:g}" for name, weight in self.weights.items()]
        words += ["--from-recipe"] if self.start else []
        words += [f"--groups={self.groups}"] if self.groups else []
        words += [f"--vary={_range_text(name, ends)}" for name, ends in self.vary.items()]
        for option, limit in (("sum", self.highest_sum), ("norm", self.highest_norm)):
            words += [] if limit is None else [f"--{option}-at-most={limit:g}"]
        words += ["--alone"] if self.alone else []
        words += ["--few-first"] if self.screened else []
        if self.bench:
            tasks = ",".join(self.bench.tasks)
            words.append(f"--tasks={tasks}" if tasks else f"--suite={self.bench.suite}")
            words += [f"--limit={self.bench.limit}"] if self.bench.limit else []
        return words + ([] if self.limited else ["--unlimited"])

    def first(self, names: tuple[str, ...]) -> dict[str, float]:
        """Returns the first point."""
        each = min(max(uniform(len(names)), self.low), self.high)
        return {name: self.start.get(name, each) for name in names}

    def space(self, names: tuple[str, ...]) -> Space:
        """Returns the box that is searched."""
        from evaluation.search import Space

        first = self.first(names)
        if unknown := sorted({*self.frozen, *self.start} - set(names)):
            raise SessionError(f"no vector is called {unknown[0]!r}; open are {', '.join(names)}.")
        return Space({name: self._bounds(name, omega) for name, omega in first.items()})

    def _bounds(self, name: str, omega: float) -> tuple[float, float]:
        """Returns the lowest and the highest value of an ω that begins at `omega`."""
        if name in self.frozen:
            return omega, omega
        if self.reach is None or name == self.added or name not in self.start:
            return self.low, self.high
        # An ω outside the bounds begins at the nearest one.
        near = min(max(omega, self.low), self.high)
        return max(self.low, near - self.reach), min(self.high, near + self.reach)

    def words(self, score: float) -> str:
        """Returns what a score says, for the user."""
        value = aim_value(self.aim, score)
        shown = f"{value:.1f} %" if self.aim in PERCENT else f"{value:.4f}"
        return f"{AIM_WORDS[self.aim]} {shown}"

    def objective(self, base: Losses, experts: Losses) -> Objective:
        """Returns what is minimised.

        Args:
            base: dataset -> loss of the base.
            experts: dataset -> loss of its own expert, where there is one.

        Raises:
            SessionError: the aim needs an expert that is better than the base.
        """
        from evaluation.search import objective
        from plumbing.suggest import nearest

        for name in self.weights:
            if name not in experts:
                raise SessionError(
                    f"no dataset with an expert is called {name!r}; {nearest(name, experts)}"
                )
        try:
            if self.aim in ("loss", "score", "front"):
                inner: Objective = objective.mean_loss(base)
            elif self.aim == "share":
                inner = objective.mean_share(base, experts, self.weights)
            else:
                inner = objective.worst_regret(base, experts)
        except ValueError as error:
            raise SessionError(str(error)) from None
        if not self.limited:
            return inner
        known = {name: loss for name, loss in experts.items() if loss < base[name]}
        units = {name: base[name] - known[name] if name in known else 1.0 for name in base}
        return objective.Limited(inner, base, units)


def aim_value(aim: str, score: float) -> float:
    """Returns a score as the aim is told: shares in percent, and scores of tasks upwards."""
    # Adding 0.0: minus zero would be shown as -0.0000.
    return {"share": -100.0, "regret": 100.0, "score": -1.0}.get(aim, 1.0) * score + 0.0


def _range_text(name: str, ends: tuple[float, float] | None) -> str:
    return name if ends is None else f"{name}={ends[0]:g}:{ends[1]:g}"
