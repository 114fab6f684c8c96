"""Proposals for mixed training, each with the merged model that stands for it.

A training on M_j examples of each dataset displaces a model about as the merge with ω_j = M_j / E_j
does (influence.vectors.proportions). OP-Mix (arXiv 2605.15220), DeMix (2602.00747) and MergeMix
(2601.17858) predict mixtures in this way. What is predicted is the order of the proposals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from corpus.selection import load
from influence.balance.stratified import stratified
from influence.vectors.proportions import surrogate_omegas
from plumbing.suggest import listed
from training.plan.rounds import with_parts
from workbench.errors import SessionError
from workbench.influence_runs.mixtures.mixture_plans import shares_of, vector_amounts
from workbench.influence_runs.mixtures.seen_examples import Seen, expert_examples, plan_ends
from workbench.influence_runs.opened_recipe import mixable_omegas

if TYPE_CHECKING:
    from merging import Recipe
    from training.plan.plan import Plan

STRATIFIED = ("equal", "proportional")
"""Shares that have a name: as much of each dataset, or as much as there is."""


@dataclass(frozen=True)
class Proposal:
    """One way to train on several datasets.

    Attributes:
        name: of the plan, or the shares as they were given.
        folder: name of the folder in which its plan is carried out.
        plan: trains it; other proposals may be ends of the same plan.
        step: name of the step that ends it.
        amounts: dataset -> examples that the training sees, each pass counted.
        omegas: vector -> ω of the merged model that stands for it.
    """

    name: str
    folder: str
    plan: Plan
    step: str
    amounts: Mapping[str, float]
    omegas: Mapping[str, float]


def proposals(
    recipe: Recipe, plans: Mapping[str, Plan], shares: Sequence[str], stated: Mapping[str, float]
) -> tuple[list[Proposal], dict[str, Seen]]:
    """Reads proposals from plans, and from shares that are trained as the first plan is.

    Args:
        recipe: its vectors have the names of the datasets.
        plans: name -> plan; each of its ends is a proposal.
        shares: "equal", "proportional", or shares such as "a=0.3,b=0.7". They make a mixture with
            as many examples as the first plan takes, so that equal steps or epochs cost the same.
        stated: as in `expert_examples`.

    Returns:
        the proposals; and vector -> what its expert has seen, as far as it is known.

    Raises:
        SessionError: a dataset has no vector, shares do not sum to 1, a proposal occurs twice, or
            there are fewer than two.
        PlanError: a plan has faults.
    """
    vectors = list(mixable_omegas(recipe))
    ends = [(name, plan, plan_ends(plan)) for name, plan in plans.items()]
    _, first, (one, *_) = ends[0]
    for text in shares:
        mixed = with_parts(first, _parts(text, first, vectors), one.examples)
        ends.append((text, mixed, plan_ends(mixed)))
    found = [
        Proposal(
            name if len(own) == 1 else f"{name}: {end.label}",
            re.sub(r"[^A-Za-z0-9._-]+", "-", name),
            plan,
            end.step,
            vector_amounts(end, vectors),
            {},
        )
        for name, plan, own in ends
        for end in own
    ]
    _check(found)
    needed = {name for each in found for name, amount in each.amounts.items() if amount}
    seen = expert_examples(recipe, list(plans.values()), stated, needed)
    zeros = dict.fromkeys(vectors, 0.0)
    return [
        replace(each, omegas=zeros | surrogate_omegas(*shares_of(each.amounts, seen)))
        for each in found
    ], seen


def _check(found: Sequence[Proposal]) -> None:
    """Refuses a proposal that occurs twice, and one alone.

    Raises:
        SessionError: with what was proposed.
    """
    names = [each.name for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SessionError(f"{listed(twice)} is proposed twice. Give each proposal once.")
    if len(found) < 2:
        raise SessionError(
            f"{listed(names)} is the only proposal, so there is nothing to compare. "
            "Give another plan, or --shares equal."
        )


def _parts(text: str, plan: Plan, vectors: Sequence[str]) -> dict[str, float]:
    """Reads the parts of a mixture from the text of --shares.

    Raises:
        SessionError: it has another form, or the shares do not sum to 1.
    """
    if text in STRATIFIED:
        names = [name for name in plan.sources if name in vectors]
        sizes = [len(load(plan.sources[name], reach=plan.reach)) for name in names]
        counts = stratified(sizes, shares=cast(Any, text))
        return dict(zip(names, map(float, counts), strict=True))
    parts = named_numbers(text, "--shares", f" It may also be {' or '.join(STRATIFIED)}.")
    total = sum(parts.values())
    if min(parts.values()) < 0 or abs(total - 1) > 1e-6:
        raise SessionError(
            f"--shares {text}: they sum to {total:g}; expected shares from 0 to 1 that sum to 1. "
            "Divide each by their sum."
        )
    return parts


def named_numbers(text: str, flag: str, hint: str = "") -> dict[str, float]:
    """Reads NAME=NUMBER,NAME=NUMBER.

    Args:
        text: what was given.
        flag: the option, for the message.
        hint: what else the option takes.

    Raises:
        SessionError: it has another form, or a name comes twice.
    """
    read: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        name = name.strip()
        try:
            value = float(number)
        except ValueError:
            name = ""
        if not name or name in read:
            raise SessionError(
                f"{flag} is {text!r}; expected NAME=NUMBER,… with each name once, such as "
                f"cot=0.3,sni=0.7.{hint}"
            )
        read[name] = value
    return read
