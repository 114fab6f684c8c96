"""The `dem` commands that carry out a question about data, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from influence.curvature.inverse import CurvatureOptions
from workbench.influence_runs.balance_rounds import DEFAULT
from workbench.influence_runs.data_answers import RESULT, ROUNDS, selection_file
from workbench.influence_runs.data_settings import BalanceSettings, MisfiledSettings, SelectSettings
from workbench.influence_runs.ideal_rounds import IdealOptions

Words = Sequence[str | Path]
GRADIENT = 3
"""How many forward passes a gradient costs, about."""
START = 1_000
"""How many forward passes of a small model fit in the seconds in which a process starts, about."""

CLI_DEFAULTS: dict[str, object] = {
    "--split": "train",
    "--share": 0.05,
    "--epochs": 4,
    "--rate": 2e-4,
    "--rank": 16,
    "--batch": 32,
    "--seed": 0,
    "--kind": "sgd",
    "--size": 8192,
    "--limit": None,
    "--method": "less",
    "--policy": "round_robin",
    "--count": None,
    "--unit": "examples",
    "--cap": None,
    "--copies": "exact",
    "--rounds": IdealOptions.rounds,
    "--m": IdealOptions.m,
    "--estimator": CurvatureOptions.estimator,
    "--layers": IdealOptions.layers,
    "--keep": IdealOptions.keep,
    "--sample": IdealOptions.sample,
}
"""Option -> its default on the command line; an option at its default is not written."""


@dataclass(frozen=True)
class DataCommand:
    """One command of a run.

    Attributes:
        name: what it does, for the user.
        words: the words after `dem`, as the page shows them.
        more: further words that the page gives and does not show.
        work: about how many forward passes of an example it takes; its part of the progress.
    """

    name: str
    words: Words
    more: Words = ()
    work: float = 10.0 * START


def begin_command(settings: SelectSettings, study: Path, root: Path) -> DataCommand:
    """Returns the command that only begins a study, for methods without a warm-up."""
    warm_up = warm_up_command(settings, study, root, 0)
    return DataCommand("study", (*warm_up.words, "--begin-only"))


def warm_up_command(settings: SelectSettings, study: Path, root: Path, pool: int) -> DataCommand:
    """Returns the command of the warm-up.

    Args:
        settings: of the run.
        study: folder of the study.
        root: the workdir.
        pool: records of the pool.
    """
    words: list[str | Path] = [
        "influence",
        "warmup",
        Path(settings.base),
        study,
        "--data",
        Path(settings.pool),
    ]
    warm = settings.warm_up
    words += _options(
        ("--split", settings.split),
        ("--share", warm.share),
        ("--epochs", warm.epochs),
        ("--rate", warm.rate),
        ("--rank", warm.rank),
        ("--batch", warm.batch),
        ("--seed", warm.seed),
    )
    work = GRADIENT * pool * warm.share * warm.epochs
    return DataCommand("warm-up", (*words, "--workdir", root), work=work)


def store_command(settings: SelectSettings, study: Path, root: Path, pool: int) -> DataCommand:
    """Returns the command that stores the gradients of the pool; arguments as warm_up_command."""
    words: list[str | Path] = ["influence", "store", study]
    words += _options(("--kind", settings.kind), ("--size", settings.size))
    work = GRADIENT * pool * settings.epochs
    return DataCommand("gradients of the pool", (*words, "--workdir", root), work=work)


def select_command(
    settings: SelectSettings, study: Path, folder: Path, root: Path, examples: tuple[int, int]
) -> DataCommand:
    """Returns the command that chooses.

    Args:
        settings: of the run.
        study: folder of the study.
        folder: of the run; the selection gets its name.
        root: the workdir.
        examples: records of the pool, and of the targets.
    """
    out = selection_file(folder)
    words: list[str | Path] = [
        "influence",
        "select",
        study,
        out,
        "--targets",
        Path(settings.targets),
    ]
    words += ["--split", settings.target_split] if settings.target_split != "validation" else []
    less = settings.method == "less"
    words += _options(
        ("--limit", settings.limit),
        ("--method", settings.method),
        *((("--kind", settings.kind),) if less else ()),
    )
    words += ["--centre"] if settings.centre and less else []
    words += _options(
        ("--policy", settings.policy),
        ("--share", settings.share) if settings.count is None else ("--count", settings.count),
        ("--unit", settings.unit),
        ("--cap", settings.cap),
        ("--copies", settings.copies),
        ("--seed", settings.seed),
    )
    pool, targets = examples
    work = {"less": GRADIENT * targets * settings.epochs, "rds": pool + targets}
    return DataCommand(
        f"selection by {settings.method}",
        (*words, "--workdir", root),
        ("--json", folder / RESULT, "--force"),
        work.get(settings.method, 1),
    )


def balance_command(
    settings: BalanceSettings, folder: Path, root: Path, roots: Sequence[Path]
) -> DataCommand:
    """Returns the command that balances the domains of a plan.

    Args:
        settings: of the run.
        folder: of the run; its plan is in it as plan.yml.
        root: the workdir.
        roots: the folders that the plan may read; the command checks this again where it reads.
    """
    words: list[str | Path] = ["balance", folder / "plan.yml", folder / ROUNDS]
    words += ["--method", settings.method] if settings.method != DEFAULT else []
    if settings.method == "ideal":
        words += _options(("--rounds", settings.rounds), ("--m", settings.m))
        words += ["--keep-total"] if settings.keep_total else []
        words += ["--centre"] if settings.centre else []
        words += _options(
            ("--estimator", settings.estimator),
            ("--layers", settings.layers),
            ("--keep", settings.keep),
            ("--sample", settings.sample),
            ("--seed", settings.seed),
        )
    more: list[str | Path] = [word for each in roots for word in ("--root", each)]
    more += ["--json", folder / RESULT, "--force"]
    return DataCommand(f"mixtures of {settings.method}", (*words, "--workdir", root), more)


def misfiled_command(settings: MisfiledSettings, folder: Path, root: Path) -> DataCommand:
    """Returns the command that looks for misfiled examples; its recipe is in the run's folder."""
    words: list[str | Path] = ["misfiled", folder / "recipe.yml", "--data", Path(settings.data)]
    words += _options(("--split", settings.split), ("--limit", settings.limit))
    words += ["--out", folder / "suspects.csv", "--workdir", root]
    return DataCommand("suspicions", words, ("--json", folder / RESULT, "--force"))


def _options(*pairs: tuple[str, object]) -> list[str | Path]:
    """Returns the options that are not at their defaults, as words; numbers in full precision."""
    words: list[str | Path] = []
    for option, value in pairs:
        if value != CLI_DEFAULTS[option]:
            words += [option, repr(value) if isinstance(value, float) else str(value)]
    return words
