"""Claim: influence predicts what a training set does to single examples, by an LDS of 0.25 or more.

    python -m benchmarks.linear_datamodels [--halves 24] [--rounds 3] [--keep FOLDER]

The linear datamodelling score (TRAK, arXiv 2303.14186, section 2): models are trained on random
halves of `--examples` training examples of the demo, and their losses on `--queries` validation
examples are measured, the mean over `--rounds` seeds of training. An estimator gives each training
example a score for each query, at the model that was trained on all of them, and predicts the loss
after a half by the sum of the scores of that half. The LDS is Spearman's correlation over the
halves between the prediction and the measurement, the mean over the queries.

The interval is a bootstrap over the halves, of 95 %. The ceiling is what a perfect prediction would
reach: the square root of the reliability of the measurement, from the correlation of the losses
between seeds by the formula of Spearman and Brown. Two estimators differ if the interval of their
difference, over the same bootstrap, does not hold 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import machine

if TYPE_CHECKING:
    from corpus import Record

LEAST = 0.25
BOOTSTRAPS = 1000
BATCH = 16


def main(argv: Sequence[str] | None = None) -> None:
    """Train on the halves, score by each estimator, and print the scores with their intervals."""

    options = machine.begin(
        __file__, __doc__, argv, rounds=3,
        examples=machine.number(200, "training examples"),
        queries=machine.number(100, "validation examples"),
        halves=machine.number(24, "random halves"),
        steps=machine.number(40, f"steps of {BATCH} examples of every training"),
        keep={"type": Path, "help": "keep what is trained here, and go on with what it holds"},
        demo={"type": Path, "default": machine.DEMO, "help": "a folder like the demo's"},
    )  # fmt: skip
    training = machine.records(options.demo, "train", options.examples)
    queries = machine.records(options.demo, "validation", options.queries)
    halves = random_halves(len(training), options.halves)
    with ExitStack() as stack:
        root = options.keep or Path(stack.enter_context(TemporaryDirectory()))
        measured = np.stack(
            [
                [
                    _losses(options, root, training, half, queries, f"{number}-{seed}", seed)
                    for number, half in enumerate(halves)
                ]
                for seed in range(options.rounds)
            ]
        )  # (seeds, halves, queries)
        everything = np.arange(len(training))
        whole = root / "all"
        _losses(options, root, training, everything, queries, "all", 0)
        scores = _estimates(options, whole, training, queries)
    members = np.zeros((len(halves), len(training)))
    for row, half in zip(members, halves, strict=True):
        row[half] = 1
    show(members, measured, scores)


def random_halves(count: int, halves: int) -> list[np.ndarray]:
    """Returns the numbers of half of the examples, drawn at random, so many times."""
    return [
        np.array(sorted(Random(f"half/{number}").sample(range(count), count // 2)))
        for number in range(halves)
    ]


def _losses(
    options: Any,
    root: Path,
    training: Sequence[Record],
    chosen: np.ndarray,
    queries: Sequence[Record],
    name: str,
    seed: int,
) -> np.ndarray:
    """Trains the base on some examples; returns the mean loss of each query, in nats per token."""
    from evaluation.loss import losses
    from evaluation.model import load
    from evaluation.prepared import prepare
    from merging import Checkpoint
    from training.run.finetune import run
    from training.stage import Stage

    kept = root / f"{name}.npy"
    if kept.exists():
        return np.asarray(np.load(kept))
    stage = Stage(
        base=options.demo / "base",
        examples=tuple(training[number] for number in chosen),
        steps=options.steps,
        batch=BATCH,
        rate=6e-4,
        seed=seed,
        frozen=("*embed_tokens*",),
        device="cpu",
        order="by_length",
    )
    folder = run(stage, root / name).folder
    loaded = load(folder, checkpoint=Checkpoint(folder))
    (found,) = losses(loaded.module, prepare({"queries": queries}, loaded.tokenizer))
    values = np.array(found.sums) / np.array(found.counts)
    np.save(kept, values)
    return values


def _estimates(
    options: Any, folder: Path, training: Sequence[Record], queries: Sequence[Record]
) -> dict[str, np.ndarray]:
    """Returns estimator -> (queries, examples): how far each example raises each query's loss."""
    from evaluation.model import load
    from influence.balance.domain_influence import domain_influence
    from influence.curvature.inverse import CurvatureOptions
    from influence.gradients.examples import read_examples
    from influence.selection.example_set import encode_examples
    from influence.selection.rds import rds_scores
    from merging import Checkpoint

    loaded = load(folder, checkpoint=Checkpoint(folder))
    domains, references = (
        {
            str(number): read_examples([record], loaded.tokenizer)
            for number, record in enumerate(set)
        }
        for set in (training, queries)
    )
    # Each example is a domain of its own, and each query a reference set.
    scores = {}
    for name, estimator in (("EK-FAC", "ekfac"), ("K-FAC", "kfac"), ("dot product", "identity")):
        found = domain_influence(
            loaded.module,
            domains,
            references,
            options=CurvatureOptions(estimator=estimator),  # type: ignore[arg-type]
        )
        scores[name] = found.alpha_per_ref
    for name, weight in loaded.module.named_parameters():
        weight.requires_grad_(".mlp." in name)  # the layers of the other estimators
    rows = [_gradients(loaded, each) for each in (queries, training)]
    scores["cosine"] = -(rows[0] @ rows[1].T)
    base = load(options.demo / "base", checkpoint=Checkpoint(options.demo / "base"))
    sets = [encode_examples({"all": each}, base.tokenizer) for each in (training, queries)]
    scores["RDS+"] = -rds_scores(base.module, *sets).values.T
    scores["random"] = np.random.default_rng(0).normal(size=scores["cosine"].shape)
    return scores


def _gradients(loaded: Any, records: Sequence[Record]) -> np.ndarray:
    """Returns the projected gradient of each record, scaled to length 1: (records, 8192)."""
    from influence.projection.projector import Projection
    from workbench.influence_runs.projected_gradients import GradientRows

    rows = GradientRows(loaded.module, loaded.tokenizer, "sgd", {}).of(records, Projection())
    return np.asarray((rows / rows.norm(dim=1, keepdim=True)).numpy(), np.float64)


def lds(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Returns the mean over queries of Spearman's correlation over halves.

    Args:
        predicted: (halves, queries).
        measured: (halves, queries).
    """
    from scipy.stats import rankdata

    ranks = [rankdata(each, axis=0) for each in (predicted, measured)]
    first, second = (each - each.mean(0) for each in ranks)
    norms = np.sqrt((first**2).sum(0) * (second**2).sum(0))
    # A draw of one half over and over has no ranks.
    known = norms > 0
    correlations = (first * second).sum(0)[known] / norms[known]
    return float(correlations.mean()) if known.any() else math.nan


def ceiling(measured: np.ndarray) -> float:
    """Returns the LDS of a perfect prediction, from (seeds, halves, queries).

    With correlation r between two seeds, the mean of n seeds has the reliability nr / (1 + (n−1)r),
    and a perfect prediction correlates with it by the root of that.
    """
    seeds = len(measured)
    pairs = [lds(measured[a], measured[b]) for a, b in combinations(range(seeds), 2)]
    r = float(np.mean(pairs)) if pairs else math.nan
    return float(np.sqrt(max(0.0, seeds * r / (1 + (seeds - 1) * r))))


def show(members: np.ndarray, measured: np.ndarray, scores: Mapping[str, np.ndarray]) -> None:
    """Print the LDS of each estimator, its interval, and its difference to the dot product."""
    predicted = {name: members @ each.T for name, each in scores.items()}
    mean = measured.mean(0)
    random = np.random.default_rng(0)
    draws = [random.integers(0, len(members), len(members)) for _ in range(BOOTSTRAPS)]
    again = {
        name: np.array([lds(each[draw], mean[draw]) for draw in draws])
        for name, each in predicted.items()
    }
    found = {name: lds(each, mean) for name, each in predicted.items()}
    best = max(found, key=lambda name: found[name])
    rows = []
    for name, value in found.items():
        low, high = np.nanquantile(again[name], [0.025, 0.975])
        less, more = np.nanquantile(again[name] - again["dot product"], [0.025, 0.975])
        met = f"≥ {LEAST}: {'met' if value >= LEAST else 'missed'}" if name == best else ""
        rows.append(
            [name, f"{value:.3f}", f"{low:.3f}–{high:.3f}", f"{less:+.3f}–{more:+.3f}", met]
        )
    machine.show(["estimator", "LDS", "95 %", "− dot product, 95 %", "target"], rows)
    print(f"A perfect prediction: {ceiling(measured):.2f}\n")


if __name__ == "__main__":
    main()
