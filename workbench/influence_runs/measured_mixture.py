"""Mixtures of a plan's domains: each is trained from the base and measured on the references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from corpus import load
from evaluation.loss import losses
from evaluation.prepared import prepare
from evaluation.records.meter import measured
from influence.errors import InfluenceError
from training.plan.rounds import with_shares
from training.plan.schedule_kinds import merge_settings
from workbench.influence_runs.trained_model import load_trained
from workbench.plans.recorded_run import Watcher, run_recorded

if TYPE_CHECKING:
    from corpus import Record
    from evaluation.loss import Loss
    from evaluation.records.ledger import Ledger
    from influence.balance.domain_influence import DomainInfluence
    from influence.balance.ideal import IdealStep
    from influence.balance.weight_trace import WeightTrace
    from training.plan.carry_out import Made
    from training.plan.plan import Plan

START = "start"
"""The method of the mixture to begin with: each domain as it is."""


@dataclass(frozen=True)
class ProxyRun:
    """A finished proxy.

    Attributes:
        trace: the weights of the domains.
        file: the table of the weights.
        tokens: that its steps processed, forward and backward.
        reference_tokens: that the reference model processed, forward only.
    """

    trace: WeightTrace
    file: Path
    tokens: int
    reference_tokens: int


@dataclass(frozen=True)
class BalanceRound:
    """One mixture: its sizes, its losses, and what is proposed after it.

    Attributes:
        number: 0 for the mixture to begin with; the number of a proposal of its method.
        sizes: domain -> examples of the mixture.
        mixture: the plan that trains it.
        folder: of the trained checkpoint or adapter.
        losses: of each reference set.
        influence: of the domains on the references; None if IDEAL did not ask for it.
        step: IDEAL's proposal for the next mixture; None if there is none.
        method: that proposed the mixture; START for the first.
        tokens: that its training processed, or 0 if that is not known.
        proxy: the proxy that proposed the mixture; None without one.
    """

    number: int
    sizes: Mapping[str, int]
    mixture: Plan
    folder: Path
    losses: tuple[Loss, ...]
    influence: DomainInfluence | None = None
    step: IdealStep | None = None
    method: str = START
    tokens: int = 0
    proxy: ProxyRun | None = None

    @property
    def mean(self) -> float:
        """The mean loss over the reference sets, nats per supervised token."""
        return sum(each.value for each in self.losses) / len(self.losses)

    @property
    def label(self) -> str:
        """What tables call it: the method, with the number of the round for IDEAL."""
        return f"{self.method} {self.number}" if self.method == "ideal" else self.method


@dataclass(frozen=True)
class Mixtures:
    """What all mixtures of a plan share.

    Attributes:
        plan: its sources are the domains, its validation sets the references, its settings those
            of every training. The schedule is not used.
        out: folder of the trainings.
        domains, wanted: name of a domain, or of a reference set -> its records.
        watcher: the callbacks of the trainings.
        ledger: where the cost of each phase is written; nowhere if None.
    """

    plan: Plan
    out: Path
    domains: Mapping[str, Sequence[Record]]
    wanted: Mapping[str, Sequence[Record]]
    watcher: Watcher
    ledger: Ledger | None

    @property
    def sizes(self) -> dict[str, int]:
        """Domain -> all of its examples: the mixture to begin with."""
        return {name: len(records) for name, records in self.domains.items()}

    def measure(
        self,
        sizes: Mapping[str, int],
        folder: str,
        number: int,
        method: str = START,
        *,
        steps: int | None = None,
    ) -> tuple[BalanceRound, Made]:
        """Trains a mixture from the base, or finds it trained, and measures it.

        Args:
            sizes: domain -> examples.
            folder: where in `out` it is trained.
            number, method: see BalanceRound. The number also seeds the draw of the examples.
            steps: number of updates; as the plan says if None.

        Returns:
            The mixture, and its training.

        Raises:
            PlanError, TrainingError: the mixture cannot be trained on.
            TrainingStopped: the watcher asked to stop; the state is saved.
        """
        plan = self.plan
        if steps is not None:
            plan = replace(plan, settings=merge_settings(plan.settings, {"steps": steps}))
        whole = self.sizes
        shares = {name: Fraction(size, whole[name]) for name, size in sizes.items()}
        mixture = with_shares(plan, shares, round=number)
        [made] = run_recorded(
            mixture, self.out / folder, self.watcher, resume=True, ledger=self.ledger
        )
        loaded = load_trained(Path(plan.base), made.folder)
        name = f"references after {folder.replace('-', ' ')}"
        with measured(self.ledger, "evaluation", name) as meter:
            references = prepare(self.wanted, loaded.tokenizer)
            found = tuple(losses(loaded.module, references))
            meter.count(sum(each.n for each in found), supervised=references.tokens)
        spent = made.spent.tokens
        now = BalanceRound(
            number, dict(sizes), mixture, made.folder, found, method=method, tokens=spent
        )
        return now, made


def open_mixtures(plan: Plan, out: Path, watcher: Watcher, ledger: Ledger | None) -> Mixtures:
    """Loads the domains and the references of a plan.

    Sets that do not fit into the model's context are reported by the estimate of the first plan,
    before it is trained. For the arguments see Mixtures.

    Raises:
        CorpusError: a source cannot be read, or has a record without anything to learn.
    """
    domains, wanted = (
        {name: load(source, reach=plan.reach) for name, source in sources.items()}
        for sources in (plan.sources, plan.validation)
    )
    return Mixtures(plan, out, domains, wanted, watcher, ledger)


def check_domains(plan: Plan) -> None:
    """Refuses a plan that cannot be balanced.

    Raises:
        InfluenceError: there are no references, or fewer than two domains.
    """
    if not plan.validation:
        raise InfluenceError(
            "the plan has no validation sets, and balance needs to know what should become better. "
            "Add validation: {NAME: FILE}."
        )
    if len(plan.sources) < 2:
        raise InfluenceError(
            f"the plan has one source, {next(iter(plan.sources))}, and there is nothing to balance "
            "it with. Give two or more sources, one for each domain."
        )
