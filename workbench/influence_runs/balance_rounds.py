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
from workbench.influence_runs.ideal_rounds import IdealOptions, ideal_rounds, round_folder
from workbench.influence_runs.measured_mixture import BalanceRound, check_domains, open_mixtures
from workbench.influence_runs.proxy_runs import check_proxy, has_proxy, run_proxy

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger
    from training.plan.plan import Plan
    from workbench.plans.recorded_run import Watcher

Rule = Literal["ideal", "doremi", "doge", "stratified"]
"""The methods."""
DEFAULT: Rule = "ideal"
"""The method if none is named."""


def balance_rounds(
    plan: Plan,
    out: Path,
    methods: Sequence[str],
    options: IdealOptions,
    watcher: Watcher,
    *,
    ledger: Ledger | None = None,
    on_round: Callable[[Sequence[BalanceRound]], None] = lambda made: None,
    on_training: Callable[[int, int], None] = lambda done, total: None,
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
        on_round: called with all mixtures so far as soon as one more is measured.
        on_training: called with the trainings done and those in all; a proxy is one too.

    Returns:
        The mixture to begin with, and those of each method in the given order.

    Raises:
        InfluenceError: a method is unknown, the plan cannot be balanced, or a method cannot propose
            a mixture for it.
        PlanError, TrainingError: a mixture cannot be trained on.
        TrainingStopped, InfluenceStopped: the watcher asked to stop; what was trained is kept.
    """
    rules = check_balance(plan, methods)
    mixtures = open_mixtures(plan, out, watcher, ledger)
    trainings = sum(training_count(rule, options) for rule in rules) + 1

    def show(so_far: Sequence[BalanceRound]) -> None:
        on_training(_trained(so_far), trainings)
        on_round(tuple(so_far))

    on_training(0, trainings)
    start, made = mixtures.measure(mixtures.sizes, round_folder(0), 0)
    rounds = [start]
    show(rounds)
    total = sum(mixtures.sizes.values())
    for rule in rules:
        if rule == "ideal":
            first, *later = ideal_rounds(
                mixtures, start, options, lambda own: show([own[0], *rounds[1:], *own[1:]])
            )
            # The start again, with the influence of its domains.
            rounds[0] = first
            rounds.extend(later)
            continue
        if has_proxy(rule):
            proxy = run_proxy(rule, mixtures, made)
            on_training(_trained(rounds) + 1, trainings)
            sizes = proxy.trace.sizes(total)
        else:
            proxy = None
            counts = stratified(list(mixtures.sizes.values()), total)
            sizes = dict(zip(mixtures.sizes, counts, strict=True))
        now, _ = mixtures.measure(sizes, rule, 1, rule, steps=made.ready.steps)
        rounds.append(replace(now, proxy=proxy))
        show(rounds)
    return rounds


def check_balance(plan: Plan, methods: Sequence[str]) -> list[Rule]:
    """Returns the methods of these names, if they can balance the plan; its data are not read.

    Raises:
        InfluenceError: as balance_rounds, but for what depends on the data.
    """
    rules = read_methods(methods)
    check_domains(plan)
    for rule in rules:
        if has_proxy(rule):
            check_proxy(plan, rule)
    return rules


def training_count(rule: Rule, options: IdealOptions) -> int:
    """Returns how many trainings a method needs besides the start, its proxy included."""
    return len(folders_of(rule, options)) + has_proxy(rule)


def folders_of(rule: Rule, options: IdealOptions) -> list[str]:
    """Returns the folders in which the mixtures that a method proposes are trained."""
    if rule == "ideal":
        return [round_folder(number) for number in range(1, options.rounds + 1)]
    return [rule]


def _trained(rounds: Sequence[BalanceRound]) -> int:
    """Returns how many trainings these mixtures took, their proxies included."""
    return len(rounds) + sum(each.proxy is not None for each in rounds)


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
