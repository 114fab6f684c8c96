"""Tries proposals for mixed training: on merged models in seconds, then by training each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus.selection import load
from evaluation.errors import Stopped
from evaluation.loss import losses
from evaluation.prepared import Prepared, prepare
from evaluation.records.meter import measured
from influence.errors import InfluenceStopped
from workbench.errors import SessionError
from workbench.influence_runs.mixtures.proposals import Proposal
from workbench.influence_runs.opened_recipe import OpenedRecipe
from workbench.influence_runs.trained_model import load_trained
from workbench.plans.recorded_run import Watcher, run_recorded

if TYPE_CHECKING:
    from evaluation.loss import Loss
    from evaluation.records.ledger import Ledger
    from training.plan.plan import Plan


@dataclass(frozen=True)
class TriedProposal:
    """A proposal with what was predicted, and what came.

    Attributes:
        proposal: the proposal.
        predicted: losses of the merged model on the validation sets.
        seconds: time of merging and measuring it.
        measured: losses of the trained model; None before it is trained.
        trained_seconds: time of its training, now or earlier, without measuring its losses.
        folder: of the trained model.
    """

    proposal: Proposal
    predicted: tuple[Loss, ...]
    seconds: float
    measured: tuple[Loss, ...] | None = None
    trained_seconds: float | None = None
    folder: Path | None = None


def mean_loss(found: Sequence[Loss]) -> float:
    """Returns the mean loss over validation sets, each counting alike, in nats per token."""
    return sum(each.value for each in found) / len(found)


def validation_sets(opened: OpenedRecipe, plans: Sequence[Plan], limit: int | None) -> Prepared:
    """Reads the validation sets of the first plan, on which all proposals are measured.

    Raises:
        SessionError: it has none, or a plan trains another base than the recipe's.
        CorpusError, DataError: a set cannot be read or scored.
    """
    from merging import Checkpoint

    first = plans[0]
    if not first.validation:
        raise SessionError(
            "the plan has no validation sets, on which the proposals could be measured. "
            "Add validation: {NAME: FILE}."
        )
    for base in dict.fromkeys(Path(plan.base).resolve() for plan in plans):
        if base != opened.base.path.resolve() and Checkpoint(base).digest != opened.base.digest:
            raise SessionError(
                f"a plan trains {base} and the vectors are of {opened.base.path}, which has "
                "other weights. Give plans on the recipe's base."
            )
    wanted: Any = {name: load(each, reach=first.reach) for name, each in first.validation.items()}
    return prepare(wanted, opened.loaded.tokenizer, limit=limit)


def predict(
    opened: OpenedRecipe,
    asked: Sequence[Proposal],
    prepared: Prepared,
    *,
    ledger: Ledger | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[TriedProposal]:
    """Merges each proposal and measures its losses; nothing is trained.

    Args:
        opened: the vectors.
        asked: the proposals.
        prepared: the validation sets.
        ledger: where the cost of each is written; nowhere if None.
        progress: called with the proposals done and the proposals in all.
        should_stop: asked before each batch.

    Raises:
        InfluenceStopped: `should_stop` returned True.
    """
    trials = []
    for number, proposal in enumerate(asked, start=1):
        with measured(ledger, "influence", f"merged for {proposal.name}") as meter:
            module = opened.compose(proposal.omegas)
            found = _losses(module, prepared, should_stop)
            meter.count(sum(each.n for each in found), supervised=prepared.tokens)
        trials.append(TriedProposal(proposal, found, meter.wall_seconds))
        progress(number, len(asked))
    return trials


def verify(
    trials: Sequence[TriedProposal],
    out: Path,
    prepared: Prepared,
    watcher: Watcher,
    *,
    ledger: Ledger | None = None,
    on_trial: Callable[[TriedProposal], None] = lambda trial: None,
) -> list[TriedProposal]:
    """Trains each proposal from the base and measures it; what is trained already is reused.

    Args:
        trials: what was predicted.
        out: each plan is carried out in a folder in it.
        prepared: the validation sets.
        watcher: the callbacks of the trainings.
        ledger: where the cost is written; nowhere if None.
        on_trial: called with each as soon as it is measured.

    Raises:
        PlanError, TrainingError: a proposal cannot be trained.
        TrainingStopped, InfluenceStopped: the watcher asked to stop; what was trained is kept.
    """
    verified = []
    for trial in trials:
        proposal, place = trial.proposal, out / trial.proposal.folder
        made = {
            each.ready.name: each
            for each in run_recorded(proposal.plan, place, watcher, resume=True, ledger=ledger)
        }
        last = made[proposal.step]
        chain = [last]
        while (parent := chain[-1].ready.step.parent) is not None:
            chain.append(made[parent])
        start = last.ready.origin.of(last.ready.stage, place).base
        loaded = load_trained(start, last.folder)
        with measured(ledger, "evaluation", f"losses of {proposal.name}") as meter:
            found = _losses(loaded.module, prepared, watcher.should_stop)
            meter.count(sum(each.n for each in found), supervised=prepared.tokens)
        seconds = sum(each.spent.wall_seconds for each in chain)
        trial = replace(trial, measured=found, trained_seconds=seconds, folder=last.folder)
        verified.append(trial)
        on_trial(trial)
    return verified


def _losses(module: Any, prepared: Prepared, should_stop: Callable[[], bool]) -> tuple[Loss, ...]:
    """Returns the losses of a model on the validation sets.

    Raises:
        InfluenceStopped: `should_stop` returned True.
    """
    try:
        return tuple(losses(module, prepared, should_stop=should_stop))
    except Stopped as stopped:
        raise InfluenceStopped(str(stopped)) from None
