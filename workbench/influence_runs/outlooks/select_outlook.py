"""What a selection will cost: a warm-up, gradients and their disk for LESS, one pass for RDS+."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus import read_datasets
from influence.projection.projector import Projection
from influence.selection.bm25 import bm25_scores
from influence.selection.example_set import Candidate, ExampleSet, encode_examples
from influence.selection.random_scores import random_scores, stratified_scores
from influence.selection.rds import rds_vectors
from plumbing.units import counted
from training.plan.plan_file import read_plan
from training.run.base import open_base
from workbench.influence_runs.data_settings import SelectSettings
from workbench.influence_runs.outlooks.data_outlook import (
    DataOutlook,
    PartOutlook,
    start_seconds,
    timed,
)
from workbench.influence_runs.projected_gradients import GradientRows, WarmModel
from workbench.influence_runs.study import STEP, Study, begin_study
from workbench.influence_runs.warm_up import PLAN, write_plan
from workbench.plans.outlook import outlook

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger

SAMPLE = 36
"""Examples that are timed, after a few that warm up the machine."""
TEXTS, QUERIES = 400, 40
"""Texts and queries of BM25 that are timed."""


def select_outlook(
    settings: SelectSettings,
    folder: Path,
    ledger: Ledger | None = None,
    *,
    start: Callable[[], float] = start_seconds,
) -> DataOutlook:
    """Returns what a selection will cost. It reads the data and times a few examples.

    Args:
        settings: what is asked.
        folder: of the study, which may be there already, with parts that are done.
        ledger: holds earlier trainings, whose speed is taken for the warm-up.
        start: returns the seconds that a new process needs to start.

    Raises:
        CorpusError, InfluenceError, MergingError, PlanError, TrainingError: the data or the base
            cannot be used.
    """
    begin = time.perf_counter()
    tokenizer = open_base(Path(settings.base)).tokenizer
    wanted = read_datasets(settings.targets, settings.target_split)
    pool = encode_examples(read_datasets(settings.pool, settings.split), tokenizer)
    targets = encode_examples(
        {name: records[: settings.limit] for name, records in wanted.items()}, tokenizer
    )
    reading = time.perf_counter() - begin
    if settings.method == "less":
        parts, based_on = _less(settings, folder, ledger, pool, targets)
    else:
        parts, based_on = _without_store(settings, pool, targets)
    processes = 1 if settings.method != "less" else sum(not part.done for part in parts[:3])
    first = PartOutlook("start and reading", None, None, processes * (start() + reading))
    return DataOutlook((first, *parts), based_on)


def _less(
    settings: SelectSettings,
    folder: Path,
    ledger: Ledger | None,
    pool: ExampleSet,
    targets: ExampleSet,
) -> tuple[list[PartOutlook], tuple[str, ...]]:
    with tempfile.TemporaryDirectory(prefix="dem-") as place:
        home = folder if (folder / PLAN).exists() else Path(place) / "study"
        study, records = begin_study(
            home, settings.base, settings.pool, settings.split, settings.warm_up
        )
        if not (home / PLAN).exists():
            write_plan(study, records)
        expected = outlook(read_plan(home / PLAN), study.trained.parent, ledger)
        per_token, adapter = _gradient_seconds(study, pool, settings.size)
    [step] = expected.lines
    rows, wanted = len(pool) * settings.epochs, len(targets) * settings.epochs
    stored = (folder / f"store-{settings.kind}" / "manifest.json").exists()
    gradients, queries = (settings.epochs * _tokens(each.examples) for each in (pool, targets))
    trained = (folder / "trained" / STEP / "training.json").exists()
    parts = [
        PartOutlook(
            f"warm-up on {settings.warm_share:.0%} of the pool",
            step.ready.examples,
            step.ready.tokens,
            0.0 if trained else step.seconds,
            # An adapter after each pass, with two averages of the optimiser for each weight.
            (settings.epochs * 3 + 1) * adapter,
            done=trained,
        ),
        PartOutlook(
            f"gradients of the pool at {counted(settings.epochs, 'checkpoint')}",
            rows,
            gradients,
            0.0 if stored else gradients * per_token,
            rows * (2 * settings.size + 5),  # float16, a norm and a mark
            done=stored,
        ),
        PartOutlook("gradients of the targets, choice", wanted, queries, queries * per_token),
    ]
    sources = [] if trained else [f"warm-up: {source}" for source in expected.sources]
    return parts, (*sources, f"gradients: {SAMPLE} examples of the pool timed here")


def _gradient_seconds(study: Study, pool: ExampleSet, size: int) -> tuple[float, int]:
    """Returns the seconds of a gradient per token, and the bytes of the adapter in float32."""
    model = WarmModel(study)
    rows, projection = (
        GradientRows(model.module, model.tokenizer, "sgd", {}),
        Projection(dimension=size),
    )
    some = _sample(pool, SAMPLE)
    rows.of([each.record for each in some[:4]], projection)
    seconds = timed(lambda: rows.of([each.record for each in some], projection))
    trained = [each for each in model.module.parameters() if each.requires_grad]
    return seconds / _tokens(some), sum(4 * each.numel() for each in trained)


def _without_store(
    settings: SelectSettings, pool: ExampleSet, targets: ExampleSet
) -> tuple[list[PartOutlook], tuple[str, ...]]:
    texts = len(pool) + len(targets)
    tokens = _tokens(pool.examples) + _tokens(targets.examples)
    match settings.method:
        case "rds":
            some = _sample(pool, SAMPLE)
            module = _model(settings.base)
            rds_vectors(module, ExampleSet(tuple(some[:4]), pool.left_out))
            sample = ExampleSet(tuple(some), pool.left_out)
            per_token = timed(lambda: rds_vectors(module, sample)) / _tokens(some)
            part = PartOutlook(
                "hidden states of pool and targets", texts, tokens, tokens * per_token
            )
            return [part], (f"{SAMPLE} examples of the pool timed here",)
        case "bm25":
            some = [each for each in _sample(pool, TEXTS) if re.search(r"\w", each.text)]
            documents = ExampleSet(tuple(some), pool.left_out)
            queries = ExampleSet(tuple(some[:QUERIES]), pool.left_out)
            bm25_scores(queries, queries)  # imports what it needs
            seconds = timed(lambda: bm25_scores(documents, queries))
            larger = len(pool) / len(documents) * max(1.0, len(targets) / len(queries))
            part = PartOutlook("words of pool and targets", texts, None, seconds * larger)
            return [part], (f"{len(documents)} texts and {len(queries)} queries timed here",)
        case name:
            draw: Any = stratified_scores if name == "stratified" else random_scores
            seconds = timed(lambda: draw(pool, settings.seed))
            part = PartOutlook("random numbers", len(pool), None, seconds)
            return [part], ("the draw itself timed here",)


def _sample(pool: ExampleSet, count: int) -> list[Candidate]:
    """Returns examples of a short, a middle and a great length, neighbours by length.

    Batches hold examples of like lengths, so examples drawn singly would be slower than the pool.
    """
    ordered = sorted(pool.examples, key=lambda each: each.tokens)
    own = max(1, count // 3)
    starts = [max(0, len(ordered) * part // 6 - own // 2) for part in (1, 3, 5)]
    rows = {row for start in starts for row in range(start, min(start + own, len(ordered)))}
    return [ordered[row] for row in sorted(rows)]


def _tokens(examples: Sequence[Candidate]) -> int:
    return sum(each.tokens for each in examples)


def _model(base: str) -> Any:
    from evaluation.model import load
    from merging import Checkpoint

    return load(Path(base), checkpoint=Checkpoint(base)).module
