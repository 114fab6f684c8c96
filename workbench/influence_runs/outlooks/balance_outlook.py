"""What balancing will cost: a training for each mixture, and the influence of the domains."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from corpus import load as load_source
from evaluation.loss import losses
from evaluation.prepared import Prepared, prepare
from influence.balance.domain_influence import domain_influence
from influence.gradients.examples import Examples, read_examples
from plumbing.units import counted
from training.plan.rounds import with_shares
from training.run import memory
from workbench.influence_runs.ideal_rounds import IdealOptions
from workbench.influence_runs.outlooks.data_outlook import (
    DataOutlook,
    PartOutlook,
    start_seconds,
    timed,
)
from workbench.plans.outlook import outlook

if TYPE_CHECKING:
    from corpus import Record
    from evaluation.model import Loaded
    from evaluation.records.ledger import Ledger
    from training.plan.plan import Plan

FEW, MORE = 4, 12
"""Examples of each set in the two influences that are timed: what grows, and what does not."""


def balance_outlook(
    plan: Plan,
    out: Path,
    options: IdealOptions,
    ledger: Ledger | None = None,
    *,
    start: Callable[[], float] = start_seconds,
) -> DataOutlook:
    """Returns what `balance_rounds` will cost. It reads the data and times a few examples.

    Args:
        plan, out, options: see balance_rounds.
        ledger: holds earlier trainings, whose speed is taken.
        start: returns the seconds that a new process needs to start.

    Raises:
        CorpusError, InfluenceError, PlanError, TrainingError: as balance_rounds.
    """
    from evaluation.model import load
    from merging import Checkpoint

    domains, wanted = (
        {name: load_source(source, reach=plan.reach) for name, source in sources.items()}
        for sources in (plan.sources, plan.validation)
    )
    mixture = with_shares(plan, dict.fromkeys(domains, Fraction(1)), round=0)
    expected = outlook(mixture, out / "round-0", ledger)
    [step] = expected.lines
    loaded = load(Path(plan.base), checkpoint=Checkpoint(plan.base))
    references = prepare(wanted, loaded.tokenizer)
    fixed, each, counts = _influence_seconds(loaded, domains, wanted, options)
    trainings, rounds = options.rounds + 1, options.rounds
    # A round that is done costs nothing more, and the outlook of the first one says whether it is.
    seconds = None if step.seconds is None else trainings * step.seconds
    weights = 0 if plan.settings.get("lora") else memory.weights_on_disk(Path(plan.base))
    parts = (
        PartOutlook("start", None, None, start()),
        PartOutlook(
            f"{counted(trainings, 'training')} on the mixture",
            trainings * step.ready.examples,
            trainings * step.ready.tokens,
            seconds,
            trainings * weights,
        ),
        PartOutlook(
            "losses of the references after each",
            trainings * sum(dataset.n for dataset in references.datasets),
            None,
            trainings * _loss_seconds(loaded, wanted, references),
        ),
        PartOutlook(
            f"influence in {counted(rounds, 'round')} ({options.curvature.estimator})",
            rounds * counts,
            None,
            rounds * (fixed + each * counts),
        ),
    )
    timed_here = f"losses and influence: up to {MORE} examples of each set timed here"
    return DataOutlook(
        parts, (*(f"trainings: {source}" for source in expected.sources), timed_here)
    )


def _influence_seconds(
    loaded: Loaded,
    domains: Mapping[str, Sequence[Record]],
    wanted: Mapping[str, Sequence[Record]],
    options: IdealOptions,
) -> tuple[float, float, int]:
    """Returns seconds that do not grow, seconds per example, and how many examples there will be.

    The curvature has parts that do not grow with the examples, such as its eigenvectors, so the
    influence is computed for two numbers of examples and a line is drawn through both.
    """
    sizes = {name: len(records) for name, records in domains.items()}

    def once(count: int) -> tuple[float, int]:
        trained, references = (
            {name: _few(records, count, loaded) for name, records in sets.items()}
            for sets in (domains, wanted)
        )
        seconds = timed(
            lambda: domain_influence(
                loaded.module,
                trained,
                references,
                sizes=sizes,
                layers=options.layers,
                keep=options.keep,
                options=options.curvature,
            )
        )
        return seconds, sum(len(each.records) for each in (*trained.values(), *references.values()))

    once(2)
    (few, fewer), (more, larger) = once(FEW), once(MORE)
    each = max(0.0, more - few) / max(1, larger - fewer)
    most = options.sample
    sets = [*domains.values(), *wanted.values()]
    counts = sum(len(one) if most is None else min(most, len(one)) for one in sets)
    return max(0.0, few - each * fewer), each, counts


def _few(records: Sequence[Record], count: int, loaded: Loaded) -> Examples:
    some = random.Random(0).sample(list(records), min(count, len(records)))
    return read_examples(some, loaded.tokenizer, too_long="drop")


def _loss_seconds(
    loaded: Loaded, wanted: Mapping[str, Sequence[Record]], references: Prepared
) -> float:
    """Returns the seconds of the losses of all references, from those of a few."""
    few = prepare({name: list(own)[:MORE] for name, own in wanted.items()}, loaded.tokenizer)
    list(losses(loaded.module, few))
    seconds = timed(lambda: list(losses(loaded.module, few)))
    return seconds * references.tokens / max(1, few.tokens)
