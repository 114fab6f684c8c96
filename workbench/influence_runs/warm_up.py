"""The warm-up of a study: a short training with LoRA on a random share of the pool.

Its checkpoints are where the gradients are taken (LESS, arXiv 2402.04333, section 4.1). It is an
ordinary plan in the study's folder, so it is resumed, counted and carried out as any training.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from corpus import Chosen, Record, write_selection
from plumbing.atomic import write_whole
from plumbing.strict_yaml import dump
from training.errors import TrainingError
from training.plan.plan_file import read_plan
from workbench.influence_runs.study import STEP, Study
from workbench.plans.recorded_run import Watcher, run_recorded

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger
    from training.plan.carry_out import Made

PLAN, DRAWN = "warmup.yml", "warmup.selection.json"


def write_plan(study: Study, pool: Mapping[str, Sequence[Record]]) -> None:
    """Writes the plan of a study's warm-up, and the selection of the records that it trains on.

    Args:
        study: the study.
        pool: name of a source -> its records.

    Raises:
        TrainingError: the share leaves no record.
    """
    settings = study.warm_up
    every = [(name, number) for name, records in pool.items() for number in range(len(records))]
    count = int(len(every) * settings.share)
    if not count:
        raise TrainingError(
            f"a share of {settings.share:g} of {len(every)} records leaves none for the warm-up. "
            f"Give a share of at least {1 / len(every):.2g}."
        )
    drawn = random.Random(settings.seed).sample(every, count)
    chosen = [Chosen(name, number, 1.0) for name, number in drawn]
    write_selection(
        study.folder / DRAWN, study.sources, chosen, about="drawn at random for a warm-up"
    )
    plan = {
        "base": study.base,
        "sources": {STEP: DRAWN},
        "settings": {
            "epochs": settings.epochs,
            "rate": settings.rate,
            "batch": min(settings.batch, count),
            "schedule": "linear",
            "warmup": 0.03,
            "decay": 0.0,
            "beta2": 0.999,
            "seed": settings.seed,
            "keep_epochs": True,
            "lora": {"rank": settings.lora.rank, "alpha": settings.lora.alpha},
        },
        "schedule": {"kind": "experts"},
    }
    write_whole(study.folder / PLAN, dump(plan))


def warm_up(
    study: Study,
    pool: Mapping[str, Sequence[Record]],
    watcher: Watcher,
    ledger: Ledger | None = None,
) -> Made:
    """Trains the warm-up of a study, continues it, or returns the finished one.

    Args:
        study: the study.
        pool: name of a source -> its records.
        watcher: the callbacks of the training.
        ledger: where its cost is written; nowhere if None.

    Raises:
        PlanError, TrainingError: the base or the data cannot be trained on.
        TrainingStopped: the watcher asked to stop; the state is saved.
        SessionError: another process trains in this folder.
    """
    if not (study.folder / PLAN).exists():
        write_plan(study, pool)
    plan = read_plan(study.folder / PLAN)
    [made] = run_recorded(plan, study.trained.parent, watcher, resume=True, ledger=ledger)
    return made
