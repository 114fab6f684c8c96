"""Methods that propose how much of each domain to train on, compared on one plan.

Each mixture is trained from the base and measured on the references, and all but those of IDEAL
have as many updates as the mixture to begin with, which every method shares:

    method       trainings besides the start
    ideal        one for each round
    doremi       a proxy, and the proposal; its reference model is the start
    doge         a proxy of n + targets backward passes a step, and the proposal
    stratified   the proposal, an equal share of each domain

The start is each domain as it is, the proportional mixture. An equal share is what Aioli
(arXiv 2411.05735) calls stratified sampling, and what DoReMi and DOGE call uniform weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from influence.balance.stratified import stratified
from influence.errors import InfluenceError
from workbench.influence_runs.ideal_rounds import IdealOptions, ideal_rounds
from workbench.influence_runs.measured_mixture import BalanceRound, open_mixtures
from workbench.influence_runs.proxy_runs import check_proxy, run_proxy

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger
    from training.plan.plan import Plan
    from workbench.plans.recorded_run import Watcher

Rule = Literal["ideal", "doremi", "doge", "stratified"]
"""The methods."""


def balance_rounds(
    plan: Plan,
    out: Path,
    methods: Sequence[str],
    options: IdealOptions,
    watcher: Watcher,
    *,
    ledger: Ledger | None = None,
    on_round: Callable[[BalanceRound], None] = lambda made: None,
) -> list[BalanceRound]:
    """Trains and measures the mixture of each method, or continues: nothing is trained twice.

    Args:
        plan: its sources are the domains, its validation sets the references, its settings those
            of every training. The schedule is not used; each training is of one mixture.
        out: folder of the trainings.
        methods: of Rule, each once.
        options: how IDEAL resizes the domains.
        watcher: the callbacks of the trainings.
        ledger: where the cost of each phase is written; nowhere if None.
        on_round: called with each mixture as soon as it is measured.

    Returns:
        The mixture to begin with, and those of each method in the given order.

    Raises:
        InfluenceError: a method is unknown, the plan cannot be balanced, or a method cannot propose
            a mixture for it.
        PlanError, TrainingError: a mixture cannot be trained on.
        TrainingStopped, InfluenceStopped: the watcher asked to stop; what was trained is kept.
    """
    rules = read_methods(methods)
    mixtures = open_mixtures(plan, out, watcher, ledger)
    for rule in rules:
        if rule == "doremi" or rule == "doge":
            check_proxy(plan, rule)
    start, made = mixtures.measure(mixtures.sizes, "round-0", 0)
    on_round(start)
    rounds = [start]
    total = sum(mixtures.sizes.values())
    for rule in rules:
        if rule == "ideal":
            first, *later = ideal_rounds(mixtures, start, options, on_round)
            # The start again, with the influence of its domains.
            rounds = [first, *rounds[1:], *later]
            continue
        if rule == "stratified":
            proxy = None
            counts = stratified(list(mixtures.sizes.values()), total)
            sizes = dict(zip(mixtures.sizes, counts, strict=True))
        else:
            proxy = run_proxy(rule, mixtures, made)
            sizes = proxy.trace.sizes(total)
        now, _ = mixtures.measure(sizes, rule, 1, rule, steps=made.ready.steps)
        rounds.append(replace(now, proxy=proxy))
        on_round(rounds[-1])
    return rounds


def read_methods(names: Sequence[str]) -> list[Rule]:
    """Returns the methods of these names.

    Raises:
        InfluenceError: a name is unknown, comes twice, or there is none.
    """
    known = {str(rule): rule for rule in get_args(Rule)}
    for name in names:
        if name not in known:
            raise InfluenceError(
                f"no method is called {name!r}; expected one of {', '.join(known)}. An equal share "
                "of each domain, which is called uniform too, is stratified; the proportional "
                "mixture is the start of each method."
            )
    if not names or len({*names}) < len(names):
        raise InfluenceError(
            f"the methods are {', '.join(names) or 'none'}; expected one or more, each once."
        )
    return [known[name] for name in names]
