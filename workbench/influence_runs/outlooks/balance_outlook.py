"""What balancing will cost: a training for each mixture, and what its method needs besides."""

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
from training.run import memory, record
from workbench.influence_runs.balance_rounds import Rule, check_balance, folders_of
from workbench.influence_runs.ideal_rounds import IdealOptions, round_folder
from workbench.influence_runs.outlooks.data_outlook import (
    DataOutlook,
    PartOutlook,
    start_seconds,
    timed,
)
from workbench.influence_runs.outlooks.proxy_outlook import TIMED, proxy_outlook
from workbench.influence_runs.proxy_runs import has_proxy, seal_file
from workbench.plans.outlook import outlook

if TYPE_CHECKING:
    from corpus import Record
    from evaluation.model import Loaded
    from evaluation.records.ledger import Ledger
    from training.plan.forecast import StepForecast
    from training.plan.plan import Plan

NEW = "new"
"""No folder of a mixture has this name, so a training there is not begun."""
FEW, MORE = 4, 12
"""Examples of each set in the two influences that are timed: what grows, and what does not."""


def balance_outlook(
    plan: Plan,
    out: Path,
    method: Rule,
    options: IdealOptions,
    ledger: Ledger | None = None,
    *,
    start: Callable[[], float] = start_seconds,
) -> DataOutlook:
    """Returns what `balance_rounds` will cost. It reads the data and times a few examples.

    Args:
        plan, out, options: see balance_rounds.
        method: the only one.
        ledger: holds earlier trainings, whose speed is taken.
        start: returns the seconds that a new process needs to start.

    Raises:
        CorpusError, InfluenceError, PlanError, TrainingError: as balance_rounds.
    """
    from evaluation.model import load
    from merging import Checkpoint

    check_balance(plan, [method])
    domains, wanted = (
        {name: load_source(source, reach=plan.reach) for name, source in sources.items()}
        for sources in (plan.sources, plan.validation)
    )
    mixture = with_shares(plan, dict.fromkeys(domains, Fraction(1)), round=0)
    trainings, first, sources = _trainings(mixture, out, folders_of(method, options), ledger)
    loaded = load(Path(plan.base), checkpoint=Checkpoint(plan.base))
    references = prepare(wanted, loaded.tokenizer)
    mixtures = 1 + len(folders_of(method, options))
    losses_of_all = PartOutlook(
        "losses of the references after each",
        mixtures * sum(dataset.n for dataset in references.datasets),
        None,
        mixtures * _loss_seconds(loaded, wanted, references),
    )
    parts = [PartOutlook("start", None, None, start()), trainings, losses_of_all]
    timed_here = [f"losses: up to {MORE} examples of each set timed here"]
    if method == "ideal":
        parts.append(_influence(loaded, domains, wanted, options))
        timed_here = [f"losses and influence: up to {MORE} examples of each set timed here"]
    # Gone before a proxy is opened, so that there are never two models in memory.
    del loaded
    if has_proxy(method):
        done = seal_file(out, method).exists()
        parts += proxy_outlook(method, first, domains, wanted, done=done)
        timed_here += [] if done else [f"proxy: {TIMED} of its steps timed here"]
    return DataOutlook(tuple(parts), (*(f"trainings: {source}" for source in sources), *timed_here))


def _trainings(
    mixture: Plan, out: Path, later: Sequence[str], ledger: Ledger | None
) -> tuple[PartOutlook, StepForecast, Sequence[str]]:
    """Returns the outlook of all mixtures' trainings, the first one, and where the times are from.

    Args:
        mixture: the plan of the mixture to begin with; the others cost about as much.
        out: folder of the trainings.
        later: the names of the folders of the others.
        ledger: see balance_outlook.
    """
    begun = outlook(mixture, out / round_folder(0), ledger)
    [start] = begun.lines
    left = [name for name in later if not any((out / name).glob(f"*/{record.NAME}"))]
    # A training that is done or begun has no speed, or that of its rest.
    fresh = (
        begun if start.ready.standing == "new" or not left else outlook(mixture, out / NEW, ledger)
    )
    [each] = fresh.lines
    seconds = None
    if start.seconds is not None and each.seconds is not None:
        seconds = start.seconds + len(left) * each.seconds
    count = 1 + len(later)
    unfinished = len(left) + (start.ready.standing != "done")
    weights = 0 if mixture.settings.get("lora") else memory.weights_on_disk(Path(mixture.base))
    name = f"{counted(count, 'training')} on a mixture"
    return (
        PartOutlook(
            name if unfinished in (0, count) else f"{name}, {count - unfinished} of them done",
            count * start.ready.examples,
            count * start.ready.tokens,
            seconds,
            unfinished * weights,
            done=not unfinished,
        ),
        start.ready,
        tuple(dict.fromkeys([*begun.sources, *fresh.sources])),
    )


def _influence(
    loaded: Loaded,
    domains: Mapping[str, Sequence[Record]],
    wanted: Mapping[str, Sequence[Record]],
    options: IdealOptions,
) -> PartOutlook:
    """Returns the outlook of the influence of the domains in all rounds of IDEAL."""
    fixed, each, counts = _influence_seconds(loaded, domains, wanted, options)
    rounds = options.rounds
    return PartOutlook(
        f"influence in {counted(rounds, 'round')} ({options.curvature.estimator})",
        rounds * counts,
        None,
        rounds * (fixed + each * counts),
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
