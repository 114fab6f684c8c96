"""Writes RESULTS.md of the real demo from its results.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from corpus.real.datasets import EXPERTS, UNSEEN, VERDICTS
from workbench.real.search import BASE, LABELS, MIXED, ONE, OWN, TUNED, UNIFORM

Row = Mapping[str, Mapping[str, float]]
"""Dataset -> what was measured on it, for one seed."""


def table(results: Mapping[str, Any]) -> str:
    """Returns the text of RESULTS.md.

    Args:
        results: the content of results.json.
    """
    rows: dict[str, list[Row]] = {
        BASE: [results["base"]],
        **{
            label: [results["rows"][f"row {label} {seed}"] for seed in results["seeds"]]
            for label in LABELS
        },
    }
    seeds = len(results["seeds"])
    sizes = {name: cell["n"] for name, cell in results["base"].items()}
    lines = [
        "# The real demo, measured",
        "",
        f"SmolLM2-135M-Instruct, five adapters of rank 8, and what is composed of them. "
        f"Every loss is the mean over {seeds} seeds of training, on the same test split "
        f"({', '.join(f'{name} {n}' for name, n in sizes.items())} examples). ω, and λ of the "
        f"other methods, are tuned on the validation split, with {results['budget']} compositions "
        "each. Made by `dem real build`.",
        "",
        "## Loss",
        "",
        "Nats per supervised token ± standard error over examples. The mean is over the five "
        "datasets with an expert; ± is the standard deviation over seeds.",
        "",
        *_table(rows, (*EXPERTS, "mean", UNSEEN), _loss),
        "",
        *_answers(rows, results),
        *_sentences(rows, results),
        "",
        "## What they say",
        "",
        "The first question of each test split, asked to the base, the dataset's own expert and "
        f"the composition ({TUNED}) of seed {results['seeds'][0]}; greedy, and cut off at the "
        "most tokens of an answer.",
        "",
        *_said(results["said"]),
    ]
    return "\n".join(lines)


def _answers(rows: Mapping[str, Sequence[Row]], results: Mapping[str, Any]) -> list[str]:
    """Returns the lines about right answers; none if no seed was asked.

    Builds before 2026-11-29 asked one seed only. A seed of which a row was not asked is left out,
    so that all rows are of the same seeds.
    """
    asked = [
        number
        for number in range(len(results["seeds"]))
        if all(_was_asked(rows[label][number]) for label in LABELS)
    ]
    base = results["base"]
    if not asked or not _was_asked(base):
        return []
    questions = ", ".join(f"{base[name]['asked']} ({name})" for name in VERDICTS)
    seeds = [str(results["seeds"][number]) for number in asked]
    spread = "The mean is over the datasets; ± is the standard deviation over seeds."
    those = {label: [rows[label][number] for number in asked] for label in LABELS}
    # The base has no seed; where seeds are compared, its mean has no deviation.
    show = _right if len(asked) == 1 else _right_of_seeds
    return [
        "## Right answers",
        "",
        "Percent ± standard error, of greedy answers. A call is right if a verifier accepts it, a "
        "sum or a word problem if its last number is right, an answer to trivia if it has the "
        f"words. The first {questions} questions of the test split are asked, to the models of "
        + (f"seed {seeds[0]}." if len(seeds) == 1 else f"seeds {', '.join(seeds)}. {spread}"),
        "",
        *_table({BASE: rows[BASE], **those}, (*VERDICTS, "mean"), show),
        "",
    ]


def _was_asked(row: Row) -> bool:
    return all("right" in row[name] for name in VERDICTS.keys() & row.keys())


def _table(rows: Mapping[str, Sequence[Row]], names: Sequence[str], cell: Any) -> list[str]:
    """Returns a table's lines; rows that were not measured on a dataset have a dash there."""
    return [
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
        *(
            f"| {label} | " + " | ".join(cell(measured, name) for name in names) + " |"
            for label, measured in rows.items()
        ),
    ]


def _loss(rows: Sequence[Row], name: str) -> str:
    return _cell(rows, name, EXPERTS, ("loss", "loss_stderr"), 1, 3)


def _right_of_seeds(rows: Sequence[Row], name: str) -> str:
    return _cell(rows, name, tuple(VERDICTS), ("right", "right_stderr"), 100, 1)


def _right(rows: Sequence[Row], name: str) -> str:
    if name != "mean" or any(each not in rows[0] for each in VERDICTS):
        return _right_of_seeds(rows, name)
    [row] = rows
    mean = sum(row[each]["right"] for each in VERDICTS) / len(VERDICTS)
    # The datasets have no question in common, so their errors are independent.
    error = math.sqrt(sum(row[each]["right_stderr"] ** 2 for each in VERDICTS)) / len(VERDICTS)
    return f"{100 * mean:.1f} ± {100 * error:.1f}"


def _cell(
    rows: Sequence[Row],
    name: str,
    all_names: tuple[str, ...],
    keys: tuple[str, str],
    scale: float,
    digits: int,
) -> str:
    """Returns mean ± error of one dataset, or mean ± deviation over seeds of all of them."""
    if name == "mean":
        if any(each not in row for row in rows for each in all_names):
            return "–"
        means = means_of(rows, all_names, keys[0])
        text = f"{scale * sum(means) / len(means):.{digits}f}"
        return text + (f" ± {scale * _deviation(means):.{digits}f}" if len(means) > 1 else "")
    if any(name not in row for row in rows):
        return "–"
    value, error = (scale * sum(row[name][key] for row in rows) / len(rows) for key in keys)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def means_of(rows: Sequence[Row], names: Sequence[str], key: str) -> list[float]:
    """Returns each seed's mean over datasets of one number."""
    return [sum(row[name][key] for name in names) / len(names) for row in rows]


def _deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _sentences(rows: Mapping[str, Sequence[Row]], results: Mapping[str, Any]) -> list[str]:
    """Returns what the numbers say; written from them, because other seeds may say otherwise."""

    def mean(label: str, names: Sequence[str] = EXPERTS, key: str = "loss") -> float:
        means = means_of(rows[label], names, key)
        return sum(means) / len(means)

    base, own = mean(BASE), mean(OWN)

    def kept(label: str) -> str:
        return f"{100 * (base - mean(label)) / (base - own):.0f} %"

    best = min((label for label in LABELS if label not in (OWN, MIXED, LABELS[-1])), key=mean)
    versus = "lower" if mean(TUNED) < mean(MIXED) else "not lower"
    unseen = {label: mean(label, (UNSEEN,)) for label in (BASE, TUNED, MIXED)}
    omegas = "; ".join(
        f"seed {seed}: "
        + ", ".join(
            f"{name} {value:g}"
            for name, value in results["rows"][f"search {TUNED} {seed}"]["omegas"].items()
        )
        for seed in results["seeds"]
    )
    return [
        "## What it says",
        "",
        f"- Of what the experts gain in mean loss, each on its own dataset, DEM with tuned ω keeps "
        f"{kept(TUNED)} in one model, one ω for all {kept(ONE)}, the uniform average "
        f"{kept(UNIFORM)}, and one adapter trained on the mixed data {kept(MIXED)}. The lowest "
        f"mean loss of all compositions is that of {best}.",
        f"- The mean loss of DEM is {versus} than that of data mixing, which saw as many tokens as "
        "the experts together.",
        f"- On questions that no expert saw, the base has a loss of {unseen[BASE]:.3f}, DEM "
        f"{unseen[TUNED]:.3f} and data mixing {unseen[MIXED]:.3f}.",
        f"- Tuned ω: {omegas}.",
        _time(results),
    ]


def _time(results: Mapping[str, Any]) -> str:
    """Returns a line about the seconds of all parts, of which two ran at a time."""
    seconds: Mapping[str, float] = results["seconds"]

    def spent(kind: str, seed: int, names: Sequence[str] = ()) -> float:
        return sum(
            value
            for key, value in seconds.items()
            if key.startswith(kind)
            and key.endswith(f" {seed}")
            and (not names or key.split()[1] in names)
        )

    experts = [spent("train", seed, EXPERTS) for seed in results["seeds"]]
    mixed = [spent("train", seed, ("mixed",)) for seed in results["seeds"]]
    return (
        f"- Seconds on one core, for one seed: the five experts {_range(experts)}, the adapter on "
        f"mixed data {_range(mixed)}, one search of ω or λ "
        f"{_range([value for key, value in seconds.items() if key.startswith('search')])}. All "
        f"parts add up to {sum(seconds.values()) / 60:.0f} minutes, of which two ran at a time."
    )


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"


def _said(said: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns a paragraph with a list for each dataset."""
    lines = []
    for name, each in said.items():
        lines += [f"**{name}**: {_one_line(each['question'])}", ""]
        who = {"base": BASE, "expert": OWN, "composition": TUNED, "the data": "answer"}
        lines += [f"- {label}: `{_one_line(each[key])}`" for label, key in who.items()]
        lines.append("")
    return lines


def _one_line(text: str) -> str:
    """Returns a text in one line, with a mark where its lines end, and without marks of code."""
    return " ⏎ ".join(line.strip() for line in text.replace("`", "'").splitlines() if line.strip())
