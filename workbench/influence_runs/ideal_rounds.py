"""IDEAL in rounds: train on the mixture, ask how each domain acts on the references, resize.

Each round trains from the base and draws its examples anew (IDEAL, arXiv 2505.12762, algorithm 1).
The last one is only trained and measured, so n rounds of resizing are n + 1 trainings.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.records.meter import Meter, measured
from influence.balance.domain_influence import DomainInfluence, domain_influence
from influence.balance.ideal import STEP, ideal_step
from influence.curvature.inverse import CurvatureOptions
from influence.errors import InfluenceError
from influence.gradients.examples import read_examples
from workbench.influence_runs.measured_mixture import BalanceRound, Mixtures
from workbench.influence_runs.trained_model import load_trained

if TYPE_CHECKING:
    from corpus import Record


@dataclass(frozen=True)
class IdealOptions:
    """How IDEAL resizes the domains.

    Attributes:
        rounds: how often.
        m: the largest change of a domain in one round, as a share of it.
        keep_total: whether the number of examples stays the same.
        centre: see influence.balance.ideal.ideal_step.
        layers: the layers that count; see influence.curvature.layer_choice.
        keep: use only so many of them, those with the steadiest curvature; all if None.
        sample: examples of each domain and each reference set for the influence; all if None.
        curvature: how the curvature is inverted.

    Raises:
        InfluenceError: there are fewer than one round.
    """

    rounds: int = 2
    m: float = STEP
    keep_total: bool = False
    centre: bool = False
    layers: str = "mlp"
    keep: int | None = None
    sample: int | None = None
    curvature: CurvatureOptions = field(default_factory=CurvatureOptions)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InfluenceError(f"rounds is {self.rounds}; expected 1 or more.")


def ideal_rounds(
    mixtures: Mixtures,
    start: BalanceRound,
    options: IdealOptions,
    on_round: Callable[[Sequence[BalanceRound]], None],
) -> list[BalanceRound]:
    """Carries out the rounds, or continues them: what is trained already is not trained again.

    Args:
        mixtures: what is trained and measured.
        start: the mixture to begin with, measured.
        options: how the domains are resized.
        on_round: called with all rounds so far as soon as a later one is measured.

    Returns:
        options.rounds + 1 rounds: the start and the others, all but the last with their influence.

    Raises:
        InfluenceError: the influence cannot be computed.
        InfluenceStopped, TrainingStopped: the watcher asked to stop; what was trained is kept.
    """
    rounds = [start]
    for number in range(1, options.rounds + 1):
        before = rounds[-1]
        with measured(
            mixtures.ledger, "influence", f"domains after round {before.number}"
        ) as meter:
            influence = _influence(mixtures, before, options, meter=meter)
        step = ideal_step(
            list(before.sizes.values()),
            influence.alpha,
            options.m,
            keep_total=options.keep_total,
            centre=options.centre,
        )
        rounds[-1] = replace(before, influence=influence, step=step)
        sizes = dict(zip(before.sizes, step.sizes, strict=True))
        now, _ = mixtures.measure(sizes, round_folder(number), number, "ideal")
        rounds.append(now)
        on_round(tuple(rounds))
    return rounds


def round_folder(number: int) -> str:
    """Returns the name of the folder of a round; round 0 is the mixture to begin with."""
    return f"round-{number}"


def _influence(
    mixtures: Mixtures, before: BalanceRound, options: IdealOptions, *, meter: Meter
) -> DomainInfluence:
    """Computes the influence of the domains, perhaps on a sample that each round draws anew.

    Args:
        mixtures: has the domains and the references, with all of their records.
        before: the mixture that the model was trained on.
        options: as in ideal_rounds.
        meter: counts the examples.
    """
    loaded = load_trained(Path(mixtures.plan.base), before.folder)
    seed = f"{options.curvature.seed}/{before.number}"
    domains, references = (
        {
            name: read_examples(records, loaded.tokenizer, too_long="drop")
            for name, records in draw_sample(each, options.sample, seed).items()
        }
        for each in (mixtures.domains, mixtures.wanted)
    )
    meter.count(sum(len(each.records) for each in (*domains.values(), *references.values())))
    return domain_influence(
        loaded.module,
        domains,
        references,
        sizes=before.sizes,
        layers=options.layers,
        keep=options.keep,
        options=options.curvature,
        should_stop=mixtures.watcher.should_stop,
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
