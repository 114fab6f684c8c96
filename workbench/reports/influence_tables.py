"""Influence as plain text for the terminal, and as data for --json."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from workbench.reports.text_table import table

if TYPE_CHECKING:
    from influence.selection.reasons import Reasons
    from workbench.influence_runs.measured_mixture import BalanceRound
    from workbench.influence_runs.misfiled_run import Suspect

STATIONARY = 0.2
"""Above this share of ‖Σ|D_j|ḡ_j‖ the model is far from an optimum of its training loss, and the
lemma behind α does not hold; on the demo it was 0.1 after a whole training."""
SHOWN, WIDE = 5, 60
"""Chosen examples that are shown, and the most characters of each."""
AGREES = 0.8
"""Below this correlation of two halves of the examples, α is mostly noise."""


def round_line(made: BalanceRound) -> str:
    """Returns one line on a mixture: its sizes and its mean loss."""
    sizes = ", ".join(f"{name} {size:,}" for name, size in made.sizes.items())
    return f"{made.label}: {sizes}; mean loss of the references {made.mean:.4f}"


def rounds(made: Sequence[BalanceRound]) -> str:
    """Returns the mixtures as a table, and what each method says of its own and costs."""
    head = ["examples", *(each.label for each in made)]
    sizes = [[name, *(f"{each.sizes[name]:,}" for each in made)] for name in made[0].sizes]
    names = [each.dataset for each in made[0].losses]
    losses = [
        [f"loss {name}", *(f"{each.losses[at].value:.4f}" for each in made)]
        for at, name in enumerate(names)
    ]
    mean = ["mean loss", *(f"{each.mean:.4f}" for each in made)]
    tokens = ["tokens trained", *(f"{each.tokens:,}" for each in made)]
    lines = [table([head, *sizes, *losses, mean, tokens]), *_sentences(made)]
    for method in dict.fromkeys(each.method for each in made[1:]):
        lines += _proposal(made[0], [each for each in made if each.method == method])
    return "\n".join(lines)


def rounds_as_data(made: Sequence[BalanceRound]) -> dict[str, Any]:
    """Returns the rounds as data for JSON."""
    return {"rounds": [_as_data(each) for each in made]}


def _as_data(made: BalanceRound) -> dict[str, Any]:
    data: dict[str, Any] = {
        "number": made.number,
        "method": made.method,
        "sizes": dict(made.sizes),
        "folder": str(made.folder),
        "losses": [
            {"dataset": each.dataset, "value": each.value, "stderr": each.stderr, "n": each.n}
            for each in made.losses
        ],
        "mean": made.mean,
        "tokens": made.tokens,
    }
    if made.proxy is not None:
        trace = made.proxy.trace
        points = {"start": trace.weights[0], "end": trace.weights[-1], "mean": trace.mean}
        data["weights"] = {
            name: dict(zip(trace.domains, weights.tolist(), strict=True))
            for name, weights in points.items()
        }
        data["proxy"] = {
            "steps": len(trace.weights) - 1,
            "file": str(made.proxy.file),
            "tokens": made.proxy.tokens,
            "reference_tokens": made.proxy.reference_tokens,
        }
    if made.influence is not None and made.step is not None:
        found = made.influence
        data |= {
            "alpha": dict(zip(found.domains, found.alpha.tolist(), strict=True)),
            "alpha_per_reference": found.alpha_per_ref.tolist(),
            "references": list(found.references),
            "stationarity": found.stationarity,
            "imbalance": found.imbalance,
            "split_half": found.split_half,
            "layers": [layer._asdict() for layer in found.layers],
            "beta": dict(zip(found.domains, made.step.beta, strict=True)),
            "predicted_change": made.step.predicted_change,
        }
    return data


def _sentences(made: Sequence[BalanceRound]) -> list[str]:
    """Returns what IDEAL predicted of each round and what came, and warnings about α."""
    lines = []
    for before, after in pairwise([made[0], *(each for each in made if each.method == "ideal")]):
        found, step = before.influence, before.step
        if found is None or step is None:
            continue
        alpha = ", ".join(
            f"{name} {value:+.4f}" for name, value in zip(found.domains, found.alpha, strict=True)
        )
        change = after.mean - before.mean
        lines += [
            f"after {before.label}: α {alpha} (below 0: more of it helps)",
            f"    predicted change of the mean loss {step.predicted_change:+.4f}, "
            f"measured {change:+.4f}",
            f"    stationarity {found.stationarity:.2f}, Σα/Σ|α| {found.imbalance:+.2f}, "
            f"agreement of two halves {found.split_half:+.2f}",
        ]
        if found.stationarity > STATIONARY:
            lines.append(
                "    the model is far from an optimum of its training loss, so α is of its "
                "training, not of its data; train longer"
            )
        if not found.split_half >= AGREES:
            lines.append("    the two halves of the examples disagree: give more examples")
    return lines


def _proposal(start: BalanceRound, own: Sequence[BalanceRound]) -> list[str]:
    """Returns the weights that a method's proxy went through, and what the method costs.

    Args:
        start: the mixture to begin with, whose training each method needs.
        own: the mixtures of the method.
    """
    method, proxy = own[0].method, own[0].proxy
    parts = [("start", start.tokens), *((each.label, each.tokens) for each in own)]
    lines, more = [], ""
    if proxy is not None:
        trace = proxy.trace
        first, last, mean = (
            ", ".join(f"{name} {value:.3f}" for name, value in zip(trace.domains, row, strict=True))
            for row in (trace.weights[0], trace.weights[-1], trace.mean.tolist())
        )
        lines.append(
            f"{method}: weights {first} at the start, {last} after {len(trace.weights) - 1} steps; "
            f"the mean is proposed, {mean}. All of them: {proxy.file}"
        )
        parts.insert(1, ("proxy", proxy.tokens))
        if proxy.reference_tokens:
            more = f"; the start, its reference, read {proxy.reference_tokens:,} without training"
    total = sum(tokens for _, tokens in parts)
    each = ", ".join(f"{name} {tokens:,}" for name, tokens in parts)
    lines.append(f"{method}: {len(parts)} trainings of {total:,} tokens ({each}){more}")
    return lines


def choice(reasons: Reasons) -> str:
    """Returns what was chosen by source, and the first examples with what they are near to."""
    head = ["source", "pool", "chosen", "of the pool", "of the choice", "supervised"]
    lines = [
        [
            each.source,
            f"{each.pool:,}",
            f"{each.chosen:,}",
            f"{each.pool_share:.1%}",
            f"{each.chosen_share:.1%}",
            f"{each.supervised:,}",
        ]
        for each in reasons.sources
    ]
    first = [
        f"{rank}. {each.source} {each.number}, {each.score:.3f}"
        + (f" for {each.query}" if each.query else "")
        + f": {shortened(each.text)}"
        for rank, each in enumerate(reasons.chosen[:SHOWN], 1)
    ]
    length = reasons.length_correlation
    told = [] if length is None else [f"scores against lengths: Spearman {length:+.2f}"]
    return "\n".join([reasons.in_words, table([head, *lines]), *told, *first])


def shortened(text: str) -> str:
    """Returns a text as one line of at most WIDE characters."""
    line = " ".join(text.split())
    return line if len(line) <= WIDE else line[: WIDE - 1] + "…"


def suspects(found: Sequence[Suspect]) -> str:
    """Returns the most suspicious examples of each dataset, a block for each."""
    blocks = []
    for dataset in dict.fromkeys(each.dataset for each in found):
        own = [each for each in found if each.dataset == dataset]
        lines = [f"{dataset}: the most suspicious of {len(own):,}"]
        for each in own[:SHOWN]:
            other = f", {each.better} is better by {each.loss_margin:.2f}" * (
                each.loss_margin >= 0.005
            )
            lines += [
                f"  {each.name}: own loss {each.own_loss:.2f}, base {each.base_loss:.2f}{other}",
                f"    {shortened(each.text)}",
            ]
        blocks.append("\n".join(lines))
    return "\n".join(blocks)
