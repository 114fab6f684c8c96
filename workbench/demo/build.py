"""Builds the embedded demo from its seed: data, base and experts; what is measured of them is in demo_measured."""

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
from training.stage import Lora, Stage
from workbench.comparison.costs import recorded
from workbench.demo.measurements import measure, recipe_of
from workbench.demo.results_table import table

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "assets" / "demo"
"""Where the demo ships."""

SECONDS = "seconds.json"
"""What each training took, kept while the demo is being built."""

Progress = Callable[[str, float, float], None]
"""Called with what is being done, the share done so far, and the share in all (1)."""

BASE_STEPS, BASE_RATE, BASE_HARD = 1700, 2e-3, 0.15
"""The base sees the easy kinds, and this share of what the experts will learn: partly able, with room above."""

EXPERTS: dict[str, dict[str, Any]] = {
    "cot": {"steps": 380, "rate": 6e-4},
    "mathqa": {"steps": 300, "rate": 6e-4},
    "p3": {"steps": 300, "rate": 3e-3, "lora": Lora(16)},
    "sni": {"steps": 500, "rate": 6e-4},
    "dialog": {"steps": 250, "rate": 3e-3, "lora": Lora(16)},
}
COMMON: dict[str, Any] = {"replay_share": 0.25, "frozen": ("*embed_tokens*",)}
"""Without these two the vectors did not compose: the sum of five was worse than the base on every dataset."""

ALL: dict[str, Any] = {"order": "by_length", "precision": "bf16", "device": "cpu"}
"""Of every training: what the checkpoints that ship were made with."""


def build(
    out: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    resume: bool = False,
    ledger: Ledger | None = None,
) -> str:
    """Makes the demo again and returns its table, which is also written to out/RESULTS.md.

    Everything is made in <out>.partial, which takes the place of `out` at the end.

    Args:
        out: the folder to make or to replace.
        seed: seed of data, first weights and order of training.
        progress: see Progress.
        resume: go on with the checkpoints that a broken-off build with the same seed left in <out>.partial.
        ledger: gets what each training, the search of ω and the table cost.
    """
    from merging.recipe import recipe_yaml
    from merging.recipe.formula import formula

    report = _Report(progress)
    staged = out.with_name(out.name + ".partial")

    def keep(name: str) -> None:
        if ledger is not None and (training := recorded(staged / name)):
            ledger.add_all([replace(training, output=str(out.resolve() / name))])

    if not resume:
        shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True, exist_ok=True)
    data = families.datasets(seed)
    families.write(staged / "data", data)
    name = (
        out.resolve().relative_to(ROOT).as_posix()
        if out.resolve().is_relative_to(ROOT)
        else out.as_posix()
    )
    with tempfile.TemporaryDirectory() as scratch:
        seconds = _train(data, staged, Path(scratch), seed, f"{name}/base", report, keep)
        results = measure(data, staged, tuple(EXPERTS), Path(scratch), report.part, ledger)
    found = recipe_of(staged, results["omegas"])
    (staged / "recipe.yml").write_text(recipe_yaml(found).replace(staged.as_posix(), name), "utf-8")
    results |= {"seed": seed, "seconds": seconds, "formula": formula(found)}
    (staged / "results.json").write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    (staged / "RESULTS.md").write_text(table(results), "utf-8")
    _replace(out, staged)
    return table(results)


class _Report:
    """One bar for all: each part has its share of it, about as long as it takes."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.done = progress, 0.0

    @contextmanager
    def part(self, what: str, share: float) -> Any:
        """A part of the work; what it yields is called with steps done, steps in all, and anything more."""

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
    base_name: str,
    report: _Report,
    keep: Callable[[str], None],
) -> dict[str, float]:
    """Base, experts and the mixed-data model, each told to `keep`; the seconds each took. What is there already stays."""
    from workbench.demo.blank_base import write_blank

    kept_out = families.held_out({name: dict(splits) for name, splits in data.items()})

    def joint(number: int, size: int, hard: float) -> tuple[Example, ...]:
        return tuple(families.mixture(3 * seed + number, size, hard=hard, held_out=kept_out))

    spent = staged / SECONDS
    seconds: dict[str, float] = json.loads(spent.read_text("utf-8")) if spent.exists() else {}

    def made(name: str, stage: Stage, share: float) -> None:
        if not (staged / name).exists():
            seconds[name] = _run(stage, staged / name, report, share)
            spent.write_text(json.dumps(seconds), "utf-8")
            keep(name)

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
        made("base", stage, 0.33)
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
        made(name, replace(common, examples=tuple(data[name]["train"]), **settings), 0.06)
    union = tuple(example for splits in data.values() for example in splits["train"])
    steps = sum(settings["steps"] for settings in EXPERTS.values())
    made("mixed", replace(common, examples=union, steps=steps, rate=6e-4), 0.27)
    return seconds


def _run(stage: Stage, out: Path, report: _Report, share: float) -> float:
    from training.run.finetune import run

    started = time.perf_counter()
    with report.part(f"training {out.name}", share) as step:
        run(stage, out, step, resume=True)
    return round(time.perf_counter() - started, 1)


def _replace(out: Path, staged: Path) -> None:
    shutil.rmtree(staged / "mixed", ignore_errors=True)
    (staged / SECONDS).unlink(missing_ok=True)
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    staged.rename(out)
    shutil.rmtree(old, ignore_errors=True)
