"""Turns a plan into the plan of a round: a mixture with new shares, drawn anew.

Methods that search for a mixture, such as IDEAL (arXiv 2505.12762), train one mixture per round:

    for number in range(3):
        plan = with_shares(plan, shares, round=number)
        run_plan(plan, Path(f"rounds/{number}"))
        shares = …                                  # from what the round has shown
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from training.errors import TrainingError
from training.plan.faults import Faults
from training.plan.plan import Plan
from training.plan.schedule_kinds import merge_settings
from training.plan.schedule_reader import ScheduleReader


def with_shares(
    plan: Plan, shares: Mapping[str, float | Fraction], *, round: int | None = None
) -> Plan:
    """Returns a plan of one step, which trains on these shares of a plan's sources.

    Base, sources, validation sets and settings stay the same.

    Args:
        plan: the plan.
        shares: source -> share of its examples; above 1 repeats examples, 0 leaves the source out.
        round: number of the round, which gives the draw of examples a seed of its own; the plan's
            own `subset_seed` if None.

    Raises:
        TrainingError: no share is above 0.
        PlanError: a source is unknown, or a share is no number of 0 or more.
    """
    used = {
        # The reader takes fractions as they are written in a plan.
        name: str(share) if isinstance(share, Fraction) else share
        for name, share in shares.items()
        if share != 0
    }
    if not used:
        raise TrainingError(
            f"the shares are {dict(shares)}, so there is nothing to train on. Give one above 0."
        )
    seed = plan.subset_seed if round is None else round_seed(plan.subset_seed, round)
    return replace(_mixing(plan, {"shares": used}), subset_seed=seed)


def with_parts(
    plan: Plan, parts: Mapping[str, float], examples: int, *, epochs: float | None = None
) -> Plan:
    """Returns a plan of one step, which trains on a mixture of so many examples.

    Base, sources, validation sets and settings stay the same, but for the length of the training
    if `epochs` is given.

    Args:
        plan: the plan.
        parts: source -> its part of the mixture, in any unit; 0 leaves the source out.
        examples: number of examples of the mixture; those of small sources are repeated.
        epochs: passes over the mixture, in the place of the plan's own steps or epochs.

    Raises:
        PlanError: a source is unknown, no part is above 0, or `examples` is below 1.
    """
    # The reader refuses a mixture of nothing, so what is 0 is not left out beforehand.
    made = _mixing(plan, {"parts": dict(parts), "examples": examples})
    if epochs is None:
        return made
    return replace(made, settings=merge_settings(plan.settings, {"epochs": epochs}))


def _mixing(plan: Plan, keys: Mapping[str, object]) -> Plan:
    """Returns a plan with one schedule of kind mixing that has these keys.

    Raises:
        PlanError: a value cannot be read.
    """
    # The lines of the old schedule say nothing about this one.
    faults = Faults(plan.faults.file)
    reader = ScheduleReader(tuple(plan.sources), faults, lambda raw, keys: {})
    entry = reader.schedule({"kind": "mixing", **keys}, ("schedule",))
    faults.raise_any()
    assert entry is not None  # otherwise there is a fault
    return replace(plan, schedules=(entry,), faults=faults)


def round_seed(seed: int, round: int) -> int:
    """Returns the seed of a round's draw, which no other round and no other seed gives.

    >>> round_seed(0, 1) == round_seed(0, 1), round_seed(0, 1) == round_seed(1, 0)
    (True, False)
    """
    # A hash, because sums such as seed + round are the same for other pairs.
    return int.from_bytes(hashlib.sha256(f"{seed}/{round}".encode()).digest()[:4], "big")
