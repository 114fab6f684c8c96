"""Writes RESULTS.md of the demo from its results.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table(results: Mapping[str, Any]) -> str:
    """Returns the text of RESULTS.md.

    Args:
        results: the content of results.json.
    """
    names = list(results["rows"][0]["datasets"])
    lines = [
        "# The demo, measured",
        "",
        "Loss in nats per supervised token, then accuracy in percent, on the "
        f"{results['split']} split "
        f"(n = {results['rows'][0]['datasets'][names[0]]['n']} per dataset). "
        "ω is tuned on the validation split only.",
        "",
        "| | " + " | ".join([*names, "mean"]) + " |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for row in results["rows"]:
        cells = [row["datasets"][name] for name in names]
        cells.append(
            {key: sum(cell[key] for cell in cells) / len(cells) for key in ("loss", "accuracy")}
        )
        shown = (f"{cell['loss']:.3f} / {100 * cell['accuracy']:.1f}" for cell in cells)
        lines.append(f"| {row['label']} | " + " | ".join(shown) + " |")
    worst = max(
        cell["accuracy_stderr"] for row in results["rows"] for cell in row["datasets"].values()
    )
    omegas = ", ".join(f"{name} {omega:g}" for name, omega in results["omegas"].items())
    seconds = ", ".join(f"{name} {spent:g}" for name, spent in results["seconds"].items())
    mean = {
        row["label"]: sum(cell["accuracy"] for cell in row["datasets"].values()) / len(names)
        for row in results["rows"]
    }
    # The sentences follow from the numbers, because another seed may have another outcome.
    dem, mixing = mean["DEM, ω tuned"], mean["data mixing"]
    lines += [
        "",
        f"Tuned ω after {results['evaluations']} evaluations: {omegas}. "
        f"Standard errors of accuracies are at most {100 * worst:.1f} points.",
        "",
        f"At this size {'data mixing' if mixing > dem else 'DEM'} has the higher mean accuracy "
        f"({100 * mixing:.1f} for mixing, {100 * dem:.1f} for DEM). "
        "Mixing was trained on the union with as many steps as the five experts together, "
        "from the same base, with the same frozen embedding and replay.",
        *_single(mean, dem),
        "",
        f"Seconds of training: {seconds}. One seed ({results['seed']}). Made by `dem demo build`.",
        "",
    ]
    return "\n".join(lines)


def _single(mean: Mapping[str, float], dem: float) -> list[str]:
    """Returns lines that compare one ω for all experts with one ω for each; [] without such a row.

    Args:
        mean: label of a row -> its mean accuracy.
        dem: the mean accuracy with one ω for each.
    """
    lines = []
    for label, accuracy in mean.items():
        if not label.startswith("one ω for all"):
            continue
        if accuracy > dem:
            ending = (
                ", more than the tuned ω: the search lowers the validation loss, each dataset's "
                "as a share of what its expert gains, and accuracy need not follow."
            )
        else:
            ending = f"; the tuned ω {100 * dem:.1f}."
        lines += ["", f"On the mean accuracy, {label} reaches {100 * accuracy:.1f}{ending}"]
    return lines
