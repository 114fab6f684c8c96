"""Mixtures of data as plain text for the terminal, and as data for --json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from influence.rank_correlation import rank_correlation
from workbench.influence_runs.mixtures.tried_proposals import mean_loss
from workbench.reports.text_table import table

if TYPE_CHECKING:
    from evaluation.loss import Loss
    from workbench.influence_runs.mixtures.mixture_plans import MixturePlan, MixtureRecipe
    from workbench.influence_runs.mixtures.seen_examples import Seen
    from workbench.influence_runs.mixtures.tried_proposals import TriedProposal


def mixture(made: MixturePlan) -> str:
    """Returns the shares that correspond to ω, with what each expert has seen."""
    rows = [
        [
            name,
            f"{omega:g}",
            f"{made.seen[name].examples:,.0f}" if name in made.seen else "",
            f"{made.shares.get(name, 0.0):.1%}",
            f"{made.counts.get(name, 0):,}",
        ]
        for name, omega in made.omegas.items()
    ]
    lines = [table([["", "ω", "its expert saw", "share", "examples"], *rows]), _how(made.seen)]
    if made.left_out:
        lines.append(
            f"left out, because ω is below 0 and data cannot be taken away: "
            f"{', '.join(made.left_out)}"
        )
    return "\n".join(lines)


def omegas(made: MixtureRecipe) -> str:
    """Returns the ω that correspond to a mixture, with what each expert has seen."""
    rows = [
        [
            name,
            f"{made.amounts[name]:,.0f}",
            f"{made.seen[name].examples:,.0f}" if name in made.seen else "",
            f"{omega:.4f}",
        ]
        for name, omega in made.omegas.items()
    ]
    lines = [table([["", "the plan sees", "its expert saw", "ω"], *rows]), _how(made.seen)]
    whole = sum(made.omegas.values())
    if whole > 1:
        lines.append(
            f"the ω sum to {whole:.2f}: the plan trains longer than the experts did, and beyond "
            "small steps the merge then goes too far. Try ω divided by their sum."
        )
    return "\n".join(lines)


def _how(seen: Mapping[str, Seen]) -> str:
    """Returns where the numbers of seen examples are from."""
    sources = dict.fromkeys(each.how for each in seen.values())
    told = [
        f"{', '.join(name for name, each in seen.items() if each.how == how)}: {how}"
        for how in sources
    ]
    return "what the experts saw is from " + "; ".join(told)


def seen_as_data(seen: Mapping[str, Seen]) -> dict[str, Any]:
    """Returns what the experts have seen as data for JSON."""
    return {name: each._asdict() for name, each in seen.items()}


def trial_line(trial: TriedProposal) -> str:
    """Returns one line on a proposal that has been trained."""
    assert trial.measured is not None
    return (
        f"{trial.proposal.name}: predicted {mean_loss(trial.predicted):.4f}, "
        f"measured {mean_loss(trial.measured):.4f}"
    )


def trials(made: Sequence[TriedProposal]) -> str:
    """Returns the proposals by their predicted loss, what came, and how well the order fits."""
    ranked = sorted(made, key=lambda trial: mean_loss(trial.predicted))
    places = _places(made)
    verified = all(trial.measured for trial in made)
    head = ["order", "examples", "sum of ω", "predicted"]
    head += ["measured", "place", "training"] if verified else []
    rows = []
    for order, trial in enumerate(ranked, 1):
        proposal = trial.proposal
        row = [
            str(order),
            f"{sum(proposal.amounts.values()):,.0f}",
            f"{sum(proposal.omegas.values()):.2f}",
            _mean(trial.predicted),
        ]
        if verified and trial.measured and trial.trained_seconds is not None:
            place, seconds = places[proposal.name], trial.trained_seconds
            row += [_mean(trial.measured), str(place), f"{seconds:,.1f} s"]
        rows.append(row)
    counts = ", ".join(f"{each.dataset} {each.n}" for each in made[0].predicted)
    lines = [
        "mean loss of the validation sets, lowest prediction first",
        table([head, *rows]),
        *(f"{order}: {trial.proposal.name}" for order, trial in enumerate(ranked, 1)),
        f"examples of the validation sets: {counts}",
    ]
    return "\n".join([*lines, *(_verdict(made) if verified else [])])


def _mean(found: Sequence[Loss]) -> str:
    """Returns a mean loss with its standard error; sets are independent of each other."""
    error = math.sqrt(sum(each.stderr**2 for each in found)) / len(found)
    return f"{mean_loss(found):.4f} ± {error:.4f}"


def _places(made: Sequence[TriedProposal]) -> dict[str, int]:
    """Returns the place of each proposal by measured loss, from 1; {} before all are measured."""
    if not all(trial.measured for trial in made):
        return {}
    ranked = sorted(made, key=lambda trial: mean_loss(trial.measured or ()))
    return {trial.proposal.name: place for place, trial in enumerate(ranked, 1)}


def spearman(made: Sequence[TriedProposal]) -> tuple[float, dict[str, float]]:
    """Returns Spearman's correlation of predicted and measured losses over verified proposals.

    Returns:
        of the mean losses, and of each validation set.
    """
    pairs = [(trial.predicted, trial.measured or ()) for trial in made]
    overall = rank_correlation(
        [mean_loss(predicted) for predicted, _ in pairs],
        [mean_loss(measured) for _, measured in pairs],
    )
    return overall, {
        each.dataset: rank_correlation(
            [predicted[at].value for predicted, _ in pairs],
            [measured[at].value for _, measured in pairs],
        )
        for at, each in enumerate(made[0].predicted)
    }


def _verdict(made: Sequence[TriedProposal]) -> list[str]:
    """Returns how well the predicted order is that of the trained models, and what each cost."""
    overall, each = spearman(made)
    chosen = min(made, key=lambda trial: mean_loss(trial.predicted))
    best = min(mean_loss(trial.measured or ()) for trial in made)
    lost = mean_loss(chosen.measured or ()) - best
    predicted = sum(trial.seconds for trial in made)
    trained = sum(trial.trained_seconds or 0.0 for trial in made)
    return [
        f"Spearman of predicted and measured over {len(made)} proposals: {overall:+.2f}; "
        + ", ".join(f"{name} {value:+.2f}" for name, value in each.items()),
        f"the best by prediction, {chosen.proposal.name}, is {lost:.4f} above the best measured",
        f"predicting took {predicted:.1f} s, training {trained:.1f} s; the experts are counted in "
        "neither",
    ]


def trials_as_data(made: Sequence[TriedProposal]) -> dict[str, Any]:
    """Returns the proposals as data for JSON."""
    places = _places(made)
    rows = [
        {
            "name": trial.proposal.name,
            "omegas": dict(trial.proposal.omegas),
            "examples": dict(trial.proposal.amounts),
            "predicted": _losses_as_data(trial.predicted),
            "predicted_mean": mean_loss(trial.predicted),
            "seconds": trial.seconds,
            "measured": _losses_as_data(trial.measured) if trial.measured else None,
            "measured_mean": mean_loss(trial.measured) if trial.measured else None,
            "place": places.get(trial.proposal.name),
            "trained_seconds": trial.trained_seconds,
            "folder": str(trial.folder) if trial.folder else None,
        }
        for trial in made
    ]
    overall, each = spearman(made) if places else (None, None)
    return {"proposals": rows, "spearman": overall, "spearman_per_set": each, "n": len(made)}


def _losses_as_data(found: Sequence[Loss]) -> list[dict[str, Any]]:
    return [
        {"dataset": each.dataset, "value": each.value, "stderr": each.stderr, "n": each.n}
        for each in found
    ]
