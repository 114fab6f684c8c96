"""IDEAL in rounds: train on the mixture, ask how each domain acts on the references, resize.

Each round trains from the base and draws its examples anew (IDEAL, arXiv 2505.12762, algorithm 1).
The last one is only trained and measured, so n rounds of resizing are n + 1 trainings.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from corpus import load
from evaluation.loss import losses
from evaluation.prepared import prepare
from evaluation.records.meter import Meter, measured
from influence.balance.domain_influence import DomainInfluence, domain_influence
from influence.balance.ideal import STEP, IdealStep, ideal_step
from influence.curvature.inverse import CurvatureOptions
from influence.errors import InfluenceError
from influence.gradients.examples import read_examples
from training.plan.rounds import with_shares
from workbench.influence_runs.trained_model import load_trained
from workbench.plans.recorded_run import Watcher, run_recorded

if TYPE_CHECKING:
    from corpus import Record
    from evaluation.loss import Loss
    from evaluation.model import Loaded
    from evaluation.records.ledger import Ledger
    from training.plan.plan import Plan


@dataclass(frozen=True)
class BalanceOptions:
    """How the domains are resized.

    Attributes:
        rounds: how often.
        m: the largest change of a domain in one round, as a share of it.
        keep_total: whether the number of examples stays the same.
        centre: see influence.balance.ideal.ideal_step.
        layers: the layers that count; see influence.curvature.layer_choice.
        keep: use only so many of them, those with the steadiest curvature; all if None.
        sample: examples of each domain and each reference set for the influence; all if None.
        curvature: how the curvature is inverted.
    """

    rounds: int = 2
    m: float = STEP
    keep_total: bool = False
    centre: bool = False
    layers: str = "mlp"
    keep: int | None = None
    sample: int | None = None
    curvature: CurvatureOptions = field(default_factory=CurvatureOptions)


@dataclass(frozen=True)
class BalanceRound:
    """One mixture: its sizes, its losses, and what is proposed after it.

    Attributes:
        number: 0 for the mixture to begin with.
        sizes: domain -> examples that were trained on.
        mixture: the plan that trains it.
        folder: of the trained checkpoint or adapter.
        losses: of each reference set.
        influence: of the domains on the references; None for the last mixture.
        step: the proposal for the next mixture; None for the last one.
    """

    number: int
    sizes: Mapping[str, int]
    mixture: Plan
    folder: Path
    losses: tuple[Loss, ...]
    influence: DomainInfluence | None = None
    step: IdealStep | None = None

    @property
    def mean(self) -> float:
        """The mean loss over the reference sets, nats per supervised token."""
        return sum(each.value for each in self.losses) / len(self.losses)


def balance_rounds(
    plan: Plan,
    out: Path,
    options: BalanceOptions,
    watcher: Watcher,
    *,
    ledger: Ledger | None = None,
    on_round: Callable[[BalanceRound], None] = lambda made: None,
) -> list[BalanceRound]:
    """Carries out the rounds, or continues them: what is trained already is not trained again.

    Args:
        plan: its sources are the domains, its validation sets the references, its settings those
            of every round. The schedule is not used; each round trains one mixture.
        out: folder of the rounds.
        options: how the domains are resized.
        watcher: the callbacks of the trainings.
        ledger: where the cost of each phase is written; nowhere if None.
        on_round: called with each round as soon as it is measured.

    Returns:
        options.rounds + 1 rounds.

    Raises:
        InfluenceError: there are no references, fewer than one round, or the influence cannot be
            computed.
        PlanError, TrainingError: the mixture cannot be trained on.
        TrainingStopped, InfluenceStopped: the watcher asked to stop; what was trained is kept.
    """
    if not plan.validation:
        raise InfluenceError(
            "the plan has no validation sets, and balance needs to know what should become better. "
            "Add validation: {NAME: FILE}."
        )
    if options.rounds < 1:
        raise InfluenceError(f"rounds is {options.rounds}; expected 1 or more.")
    domains = {name: load(source, reach=plan.reach) for name, source in plan.sources.items()}
    wanted = {name: load(source, reach=plan.reach) for name, source in plan.validation.items()}
    sizes = {name: len(records) for name, records in domains.items()}
    rounds: list[BalanceRound] = []
    for number in range(options.rounds + 1):
        shares = {name: Fraction(size, len(domains[name])) for name, size in sizes.items()}
        mixture = with_shares(plan, shares, round=number)
        [made] = run_recorded(mixture, out / f"round-{number}", watcher, resume=True, ledger=ledger)
        loaded = load_trained(Path(plan.base), made.folder)
        with measured(ledger, "evaluation", f"references after round {number}") as meter:
            references = prepare(wanted, loaded.tokenizer)
            found = tuple(losses(loaded.module, references))
            meter.count(sum(each.n for each in found), supervised=references.tokens)
        now = BalanceRound(number, dict(sizes), mixture, made.folder, found)
        if number < options.rounds:
            with measured(ledger, "influence", f"domains after round {number}") as meter:
                influence = _influence(
                    loaded, (domains, wanted), sizes, number, options, watcher, meter=meter
                )
            step = ideal_step(
                list(sizes.values()),
                influence.alpha,
                options.m,
                keep_total=options.keep_total,
                centre=options.centre,
            )
            now = replace(now, influence=influence, step=step)
            sizes = dict(zip(sizes, step.sizes, strict=True))
        rounds.append(now)
        on_round(now)
    return rounds


def _influence(
    loaded: Loaded,
    data: tuple[Mapping[str, Sequence[Record]], Mapping[str, Sequence[Record]]],
    sizes: Mapping[str, int],
    number: int,
    options: BalanceOptions,
    watcher: Watcher,
    *,
    meter: Meter,
) -> DomainInfluence:
    """Computes the influence of the domains, perhaps on a sample that each round draws anew.

    Args:
        loaded: what was trained on the mixture.
        data: the domains and the references, with all of their records.
        sizes: domain -> examples in the mixture.
        number: of the round.
        options, watcher: as in balance_rounds.
        meter: counts the examples.
    """
    seed = f"{options.curvature.seed}/{number}"
    domains, references = (
        {
            name: read_examples(records, loaded.tokenizer, too_long="drop")
            for name, records in draw_sample(each, options.sample, seed).items()
        }
        for each in data
    )
    meter.count(sum(len(each.records) for each in (*domains.values(), *references.values())))
    return domain_influence(
        loaded.module,
        domains,
        references,
        sizes=sizes,
        layers=options.layers,
        keep=options.keep,
        options=options.curvature,
        should_stop=watcher.should_stop,
    )


def draw_sample(
    records: Mapping[str, Sequence[Record]], most: int | None, seed: str
) -> dict[str, Sequence[Record]]:
    """Draws at most so many records of each set."""
    return {
        name: own
        if most is None or len(own) <= most
        else random.Random(f"{seed}/{name}").sample(list(own), most)
        for name, own in records.items()
    }
