"""Builds the embedded demo from its seed: data, base, experts and the model on mixed data.

workbench/demo/measurements.py measures them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import corpus.demo as families
from corpus import Example
from plumbing.atomic import replace_folder
from plumbing.paths import assets
from training.adapter import Lora
from training.stage import Stage
from workbench.comparison.costs import recorded_training
from workbench.demo.known_losses import keep_losses
from workbench.demo.measurements import measure, recipe_of
from workbench.demo.results_table import table

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger

ROOT = assets().parent
"""The folder above assets/. Paths in the demo's recipe and suite are relative to it."""
DEMO = assets() / "demo"
"""Where the demo ships."""

SECONDS = "seconds.json"
"""File with the seconds of each training, which exists while the demo is being built."""

Progress = Callable[[str, float, float], None]
"""Called with the name of the current part, the share of the work that is done, and 1."""

BASE_STEPS, BASE_RATE, BASE_HARD = 1700, 2e-3, 0.15
"""Updates and learning rate of the base, and the share of hard examples that it sees.

Hard examples are what the experts learn. With few of them the base is partly able to solve its
tasks, and leaves the experts room to improve.
"""

EXPERTS: dict[str, dict[str, Any]] = {
    "cot": {"steps": 380, "rate": 6e-4},
    "mathqa": {"steps": 300, "rate": 6e-4},
    "p3": {"steps": 300, "rate": 3e-3, "lora": Lora(16)},
    "sni": {"steps": 500, "rate": 6e-4},
    "dialog": {"steps": 250, "rate": 3e-3, "lora": Lora(16)},
}
COMMON: dict[str, Any] = {"replay_share": 0.25, "frozen": ("*embed_tokens*",)}
"""Settings of every expert: a quarter of replayed examples, and frozen embeddings.

Without these two the vectors did not compose: the sum of five was worse than the base on every
dataset.
"""

ALL: dict[str, Any] = {"order": "by_length", "precision": "bf16", "device": "cpu"}
"""Settings of every training, with which the shipped checkpoints were made."""


def build(
    out: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    resume: bool = False,
    ledger: Ledger | None = None,
) -> str:
    """Builds the demo and returns its table of results, which is also written to out/RESULTS.md.

    Everything is written to <out>.partial, which replaces `out` at the end.

    Args:
        out: the folder to make or to replace.
        seed: of the data, the first weights and the order of training.
        progress: see Progress.
        resume: continue with the checkpoints that an interrupted build with the same seed left in
            <out>.partial.
        ledger: where the costs of the trainings, of the search for ω and of the table are recorded.
    """
    from merging.recipe import recipe_yaml
    from merging.recipe.formula import formula

    report = _Report(progress)
    staged = out.with_name(out.name + ".partial")

    def keep(name: str) -> None:
        # Under the final folder: costs are looked up by folder, and .partial is gone afterwards.
        if ledger is not None and (training := recorded_training(staged / name)):
            ledger.add_all([replace(training, output=str(out.resolve() / name))])

    if not resume:
        shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True, exist_ok=True)
    data = families.datasets(seed)
    families.write(staged / "data", data)
    # A demo inside the repository is named relative to it, so that what ships names no folder of
    # the machine that built it.
    name = (
        out.resolve().relative_to(ROOT).as_posix()
        if out.resolve().is_relative_to(ROOT)
        else out.as_posix()
    )
    with tempfile.TemporaryDirectory() as scratch:
        seconds = _train(
            data, staged, Path(scratch), seed, base_name=f"{name}/base", report=report, keep=keep
        )
        results = measure(data, staged, tuple(EXPERTS), Path(scratch), report.part, ledger)
    recipe = recipe_of(staged, results["omegas"])
    text = recipe_yaml(recipe).replace(staged.as_posix(), name)
    (staged / "recipe.yml").write_text(text, "utf-8")
    results |= {"seed": seed, "seconds": seconds, "formula": formula(recipe)}
    (staged / "results.json").write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    (staged / "RESULTS.md").write_text(table(results), "utf-8")
    # What does not ship.
    shutil.rmtree(staged / "mixed", ignore_errors=True)
    (staged / SECONDS).unlink(missing_ok=True)
    with report.part("measuring what the page shows first", 0.01):
        keep_losses(staged)
    replace_folder(out, staged)
    return table(results)


class _Report:
    """One progress bar for the whole build; each part has a share of it, by its usual time."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.done = progress, 0.0

    @contextmanager
    def part(self, what: str, share: float) -> Any:
        """Begins a part of the work, which ends with the block.

        Args:
            what: name of the part.
            share: of the whole build, from 0 to 1.

        Yields:
            A function to call with the steps done, the steps in all, and anything more.
        """

        def step(done: float, total: float, *_: object) -> None:
            if self.progress:
                self.progress(what, self.done + share * done / total, 1.0)

        step(0, 1)
        yield step
        self.done += share
        step(0, 1)


def _train(
    data: Mapping[str, Mapping[str, list[Example]]],
    staged: Path,
    scratch: Path,
    seed: int,
    *,
    base_name: str,
    report: _Report,
    keep: Callable[[str], None],
) -> dict[str, float]:
    """Trains base, experts and the model on mixed data, and returns the seconds of each training.

    A checkpoint that already exists in `staged` is not trained again.

    Args:
        data: examples by dataset and split.
        staged: where the checkpoints are written.
        scratch: an empty folder for the untrained base.
        seed: of weights, data and order.
        base_name: what the experts name as their base.
        report: the progress bar.
        keep: called with the name of each new checkpoint, to record its cost.
    """
    from workbench.demo.blank_base import write_blank

    kept_out = families.held_out({name: dict(splits) for name, splits in data.items()})

    # Three different draws per seed: the base's corpus, the tokenizer's texts, and the replay.
    def joint(number: int, size: int, hard: float) -> tuple[Example, ...]:
        return tuple(families.mixture(3 * seed + number, size, hard=hard, held_out=kept_out))

    spent = staged / SECONDS
    seconds: dict[str, float] = json.loads(spent.read_text("utf-8")) if spent.exists() else {}

    def train(name: str, stage: Stage, share: float) -> None:
        if not (staged / name).exists():
            seconds[name] = _run(stage, staged / name, report, share)
            # Written after each training, so that a resumed build knows the seconds of all.
            spent.write_text(json.dumps(seconds), "utf-8")
            keep(name)

    # train() asks this too, but the tokenizer and 60,000 examples are made only if needed.
    if not (staged / "base").exists():
        texts = (example.prompt + example.completion for example in joint(1, 6000, 0.5))
        blank = write_blank(scratch / "blank", texts, seed=seed)
        examples = joint(0, 60_000, BASE_HARD)
        random = Stage(
            base=blank,
            base_name="random weights",
            examples=examples,
            steps=BASE_STEPS,
            seed=seed,
            **ALL,
        )
        stage = replace(random, rate=BASE_RATE)
        train("base", stage, 0.33)
    replay = joint(2, 6000, 0.0)
    common = Stage(
        base=staged / "base",
        base_name=base_name,
        examples=replay,
        replay=replay,
        steps=1,
        seed=seed,
        **ALL,
        **COMMON,
    )
    for name, settings in EXPERTS.items():
        train(name, replace(common, examples=tuple(data[name]["train"]), **settings), 0.06)
    # For a fair comparison, mixing gets as many updates as the experts together.
    union = tuple(example for splits in data.values() for example in splits["train"])
    steps = sum(settings["steps"] for settings in EXPERTS.values())
    train("mixed", replace(common, examples=union, steps=steps, rate=6e-4), 0.27)
    return seconds


def _run(stage: Stage, out: Path, report: _Report, share: float) -> float:
    """Trains one stage and returns the seconds that it took."""
    from training.run.finetune import run

    started = time.perf_counter()
    with report.part(f"training {out.name}", share) as step:
        # A build that must not be continued has removed its folder, so no old state is left.
        run(stage, out, step, resume=True)
    return round(time.perf_counter() - started, 1)
