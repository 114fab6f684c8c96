"""What is asked about data on the page: the settings of each question, and their file run.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from influence.curvature.inverse import CurvatureOptions
from plumbing.atomic import write_whole
from workbench.errors import SessionError
from workbench.influence_runs.balance_rounds import DEFAULT, Rule
from workbench.influence_runs.ideal_rounds import IdealOptions
from workbench.influence_runs.study import WarmUp

FILE = "run.json"
"""The settings of a run, in its folder."""


@dataclass(frozen=True)
class SelectSettings:
    """Which examples to train on. The fields are those of the `dem influence` commands.

    Attributes:
        base, pool, targets: folders.
        split, target_split: splits of the pool and of the targets.
        limit: examples of each subtask of the targets; all if None.
        method, policy, unit, copies, kind, centre, seed: see workbench.influence_runs.selecting.
        share: share of the pool that is chosen; a count in its place if that is given.
        count: how many are chosen, in `unit`, or None.
        cap: the most of the budget that a source gives, 0 to 1, or None.
        size: numbers that a gradient is projected to.
        warm_share, epochs, rate, rank, batch: of the warm-up.
    """

    QUESTION: ClassVar[str] = "select"

    base: str
    pool: str
    targets: str
    split: str = "train"
    target_split: str = "validation"
    limit: int | None = 20
    method: str = "less"
    policy: str = "round_robin"
    share: float = 0.05
    count: int | None = None
    unit: str = "examples"
    cap: float | None = None
    copies: str = "exact"
    kind: str = "sgd"
    centre: bool = False
    size: int = 8192
    warm_share: float = 0.05
    epochs: int = 4
    rate: float = 1e-3
    rank: int = 16
    batch: int = 32
    seed: int = 0

    @property
    def warm_up(self) -> WarmUp:
        """The settings of the warm-up."""
        return WarmUp(self.warm_share, self.epochs, self.rate, self.rank, self.batch, self.seed)


@dataclass(frozen=True)
class BalanceSettings:
    """How much of each domain. The fields but `plan` are the options of `dem balance`.

    Attributes:
        plan: the text of the plan.
        method: see workbench.influence_runs.balance_rounds. The others are of ideal alone.
        rounds, m, keep_total, centre, estimator, layers, keep, sample, seed: see
            workbench.influence_runs.ideal_rounds. The page takes a sample, unlike the command.
    """

    QUESTION: ClassVar[str] = "balance"

    plan: str
    method: Rule = DEFAULT
    rounds: int = IdealOptions.rounds
    m: float = IdealOptions.m
    keep_total: bool = IdealOptions.keep_total
    centre: bool = IdealOptions.centre
    estimator: str = CurvatureOptions.estimator
    layers: str = IdealOptions.layers
    keep: int | None = IdealOptions.keep
    sample: int | None = 200
    seed: int = CurvatureOptions.seed


@dataclass(frozen=True)
class MisfiledSettings:
    """Which examples are in the wrong place. The fields but `recipe` are those of `dem misfiled`.

    Attributes:
        recipe: the recipe as YAML; it names the base and the experts.
        data: the folder of what the experts were trained on.
        split: which split is read.
        limit: examples of each dataset; all if None.
    """

    QUESTION: ClassVar[str] = "misfiled"

    recipe: str
    data: str
    split: str = "train"
    limit: int | None = None


Settings = SelectSettings | BalanceSettings | MisfiledSettings
KINDS: dict[str, type[Settings]] = {
    kind.QUESTION: kind for kind in (SelectSettings, BalanceSettings, MisfiledSettings)
}
"""Question -> its settings. A question is the kind of its job as well."""


def write_settings(folder: Path, settings: Settings) -> None:
    """Writes the settings of a run into its folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, json.dumps(asdict(settings), indent=1, ensure_ascii=False) + "\n")


def read_settings(folder: Path, question: str) -> Any:
    """Reads what `write_settings` wrote; a value of KINDS[question].

    Raises:
        SessionError: the folder has no settings of this question.
    """
    try:
        return KINDS[question](**json.loads((folder / FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise SessionError(
            f"{folder} holds no run of this question ({error}). Choose one from the list, or start "
            "a new one."
        ) from None
