"""What vectors do to validation examples, as text for the terminal and as data for --json."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from workbench.reports.influence_tables import AGREES, STATIONARY
from workbench.reports.text_table import table

if TYPE_CHECKING:
    from workbench.influence_runs.vector_table import CurvatureCheck, VectorTable


def vectors(found: VectorTable) -> str:
    """Returns derivatives with their errors, cosines, who is helped by what, and EK-FAC's word."""
    influence = found.influence
    datasets, names = influence.references, influence.vectors
    derivatives = [
        [
            dataset,
            *(
                f"{alpha:+.4f} ± {error:.4f}"
                for alpha, error in zip(
                    influence.alphas[row].tolist(), influence.stderrs[row].tolist(), strict=True
                )
            ),
        ]
        for row, dataset in enumerate(datasets)
    ]
    cosines = [
        [dataset, *(f"{value:+.4f}" for value in found.cosines(dataset))] for dataset in datasets
    ]
    helped = [
        [
            dataset,
            f"{influence.counts[row]:,}",
            *(f"{share:.0%}" for share in found.helpful[dataset].helped),
            found.best(row) or "none",
        ]
        for row, dataset in enumerate(datasets)
    ]
    lines = [
        "Change of the loss by a little more of each vector, nats per unit of ω "
        "(below 0: it helps)",
        table([["", *names], *derivatives]),
        "",
        "Mean cosine of the gradients of single examples with each vector (below 0: it helps)",
        table([["", *names], *cosines]),
        "",
        "Share of the examples that each vector helps",
        table([["", "examples", *names, "best helper"], *helped]),
    ]
    low = [
        f"{dataset} {value:+.2f}"
        for dataset, value in zip(datasets, influence.agreement.tolist(), strict=True)
        if not value >= AGREES
    ]
    if low:
        lines.append(
            f"the two halves of the examples disagree on the vectors: {', '.join(low)}; "
            "give more examples"
        )
    return "\n".join([*lines, *(_check(found) if found.check else [])])


def _check(found: VectorTable) -> list[str]:
    """Returns the lines of the comparison with EK-FAC."""
    check = found.check
    assert check is not None
    domains, sets = check.influence, found.influence.references
    mean = found.influence.alphas.mean(0).tolist()
    both = [
        [name, f"{vector:+.4f}", f"{domain:+.4f}"]
        for name, vector, domain in zip(domains.domains, mean, domains.alpha.tolist(), strict=True)
    ]
    lines = [
        "",
        "Mean over the validation sets: nats per unit of ω, and nats for the data once more",
        table([["", "vector", "EK-FAC of its data"], *both]),
        f"rank agreement (Spearman) over {len(domains.domains)} vectors: {check.overall:+.2f}; "
        + ", ".join(
            f"{name} {value:+.2f}" for name, value in zip(sets, check.by_reference, strict=True)
        ),
        f"EK-FAC: stationarity {domains.stationarity:.2f}, agreement of two halves "
        f"{domains.split_half:+.2f}",
    ]
    if domains.stationarity > STATIONARY:
        lines.append(
            "the model is far from an optimum of the loss on these data, where EK-FAC's α does not "
            "hold; give --at a model that was trained on them"
        )
    return lines


def vectors_as_data(found: VectorTable) -> dict[str, Any]:
    """Returns the result as data for JSON, without the single examples."""
    influence = found.influence
    rows = []
    for row, dataset in enumerate(influence.references):
        helpful, cosines = found.helpful[dataset], found.cosines(dataset)
        most = Counter(helpful.best)
        rows.append(
            {
                "dataset": dataset,
                "examples": influence.counts[row],
                "agreement": float(influence.agreement[row]),
                "best": found.best(row),
                "vectors": [
                    {
                        "vector": name,
                        "derivative": float(influence.alphas[row, column]),
                        "stderr": float(influence.stderrs[row, column]),
                        "cosine": cosines[column],
                        "helped": helpful.helped[column],
                        "best_of": most[name],
                    }
                    for column, name in enumerate(influence.vectors)
                ],
            }
        )
    return {"datasets": rows, "ekfac": _check_as_data(found.check) if found.check else None}


def _check_as_data(check: CurvatureCheck) -> dict[str, Any]:
    domains = check.influence
    return {
        "alpha": dict(zip(domains.domains, domains.alpha.tolist(), strict=True)),
        "alpha_per_reference": domains.alpha_per_ref.tolist(),
        "references": list(domains.references),
        "stationarity": domains.stationarity,
        "split_half": domains.split_half,
        "spearman": check.overall,
        "spearman_per_reference": dict(zip(domains.references, check.by_reference, strict=True)),
        "n": len(domains.domains),
    }
