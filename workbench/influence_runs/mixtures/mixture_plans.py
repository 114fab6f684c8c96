"""From ω of a recipe to a plan that trains on the mixture, and from a plan to the ω of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from influence.vectors.proportions import mixture_of, omegas_of
from plumbing.suggest import listed
from training.plan.rounds import with_parts
from workbench.errors import SessionError
from workbench.influence_runs.mixtures.seen_examples import (
    PlanEnd,
    Seen,
    expert_examples,
    plan_ends,
)
from workbench.influence_runs.opened_recipe import mixable_omegas

if TYPE_CHECKING:
    from merging import Recipe
    from training.plan.plan import Plan


class MixturePlan(NamedTuple):
    """A plan that trains on the mixture which corresponds to a recipe."""

    plan: Plan
    omegas: Mapping[str, float]
    """Vector -> ω of the recipe."""
    seen: Mapping[str, Seen]
    """Vector -> what its expert has seen; an ω of 0 or less needs no number."""
    shares: Mapping[str, float]
    """Dataset -> its share of the mixture; they sum to 1, and what is missing is 0."""
    counts: Mapping[str, int]
    """Dataset -> examples that the plan takes; those without any are missing."""
    left_out: tuple[str, ...]
    """Datasets with an ω below 0, which no mixture has."""


class MixtureRecipe(NamedTuple):
    """The recipe whose merge corresponds to the training on a plan's mixture."""

    recipe: Recipe
    omegas: Mapping[str, float]
    seen: Mapping[str, Seen]
    amounts: Mapping[str, float]
    """Dataset -> examples that the plan's training sees."""


def mixture_plan(
    recipe: Recipe, plan: Plan, stated: Mapping[str, float], *, equal_cost: bool = False
) -> MixturePlan:
    """Returns the plan of one pass over M_j = ω_j E_j examples of each dataset.

    Args:
        recipe: its ω, and its experts.
        plan: gives the base, the sources by the names of the vectors, and the settings.
        stated: as in `expert_examples`.
        equal_cost: the mixture has as many examples as all experts have seen together, so that
            mixed training costs as much as they did; its shares are the same.

    Raises:
        SessionError: the recipe corresponds to no mixture, or the plan lacks a dataset.
        InfluenceError: no ω is above 0.
    """
    omegas = mixable_omegas(recipe)
    needed = [name for name, omega in omegas.items() if omega > 0]
    if missing := [name for name in needed if name not in plan.sources]:
        raise SessionError(
            f"the plan has no source {listed(missing)}, whose ω is above 0; it has "
            f"{listed(list(plan.sources))}. Name the sources as the recipe names its vectors."
        )
    seen = expert_examples(recipe, [plan], stated, needed)
    experts = {name: each.examples for name, each in seen.items()}
    mixture = mixture_of({name: omegas[name] for name in experts}, experts)
    total = sum(experts.values()) if equal_cost else mixture.total
    rounded = {name: round(share * total) for name, share in mixture.shares.items()}
    counts = {name: count for name, count in rounded.items() if count}
    if not counts:
        raise SessionError(
            f"the mixture has {total:g} examples in all, less than one of each dataset. "
            "Give larger ω, or --equal-cost."
        )
    made = with_parts(plan, counts, sum(counts.values()), epochs=1)
    negative = tuple(name for name, omega in omegas.items() if omega < 0)
    return MixturePlan(made, omegas, seen, mixture.shares, counts, negative)


def mixture_recipe(recipe: Recipe, plan: Plan, stated: Mapping[str, float]) -> MixtureRecipe:
    """Returns the recipe with ω_j = M_j / E_j, M_j what the plan's training sees of dataset j.

    Args:
        recipe: its experts; its own ω do not matter.
        plan: a plan that ends in one step.
        stated: as in `expert_examples`.

    Raises:
        SessionError: the recipe has another method, the plan has several ends, or one of its
            datasets has no vector.
        PlanError: the plan has faults.
    """
    names = list(mixable_omegas(recipe))
    ends = plan_ends(plan)
    if len(ends) > 1:
        raise SessionError(
            f"the plan ends in {len(ends)} models: {listed([end.label for end in ends])}. "
            "Give a plan that ends in one."
        )
    amounts = vector_amounts(ends[0], names)
    seen = expert_examples(recipe, [plan], stated, ends[0].amounts)
    omegas = omegas_of(*shares_of(amounts, seen))
    omegas = {name: omegas.get(name, 0.0) for name in names}
    return MixtureRecipe(recipe.with_omegas(omegas), omegas, seen, amounts)


def shares_of(
    amounts: Mapping[str, float], seen: Mapping[str, Seen]
) -> tuple[dict[str, float], float, dict[str, float]]:
    """Returns the arguments of `omegas_of`: shares, their total, and what the experts saw.

    Args:
        amounts: dataset -> examples that a training sees.
        seen: vector -> what its expert has seen; known for all datasets with an amount.
    """
    total = sum(amounts.values())
    shares = {name: amounts[name] / total for name in seen}
    return shares, total, {name: each.examples for name, each in seen.items()}


def vector_amounts(end: PlanEnd, vectors: list[str]) -> dict[str, float]:
    """Returns what a training sees of each vector's dataset; 0 for those that it does not take.

    Raises:
        SessionError: it takes a dataset without a vector.
    """
    if unknown := [name for name in end.amounts if name not in vectors]:
        raise SessionError(
            f"{end.label} trains on {listed(unknown)}, and the recipe has no such vector; it has "
            f"{listed(vectors)}. Name the sources as the recipe names its vectors."
        )
    return {name: end.amounts.get(name, 0.0) for name in vectors}
