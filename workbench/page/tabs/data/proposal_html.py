"""What the page calls the mixtures of balancing, their cost, and the weights of proxies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from plumbing import units
from workbench.page.tabs import markup
from workbench.page.tabs.data.balance_form import METHODS

NAMES: dict[str, str] = {method: label.partition(":")[0] for label, method in METHODS}
"""Method -> its name on the page."""


def method_of(mixture: Mapping[str, Any]) -> str:
    """Returns the method that proposed a mixture; earlier versions knew IDEAL alone."""
    method: str = mixture.get("method", "ideal")
    return method


def label(mixture: Mapping[str, Any]) -> str:
    """Returns what the page calls a mixture: start, round 1, DoReMi."""
    number = mixture["number"]
    if number == 0:
        return "start"
    method = method_of(mixture)
    return f"round {number}" if method == "ideal" else NAMES[method]


def cost_text(mixtures: Sequence[Mapping[str, Any]]) -> str:
    """Returns the tokens of each training, those of proxies included.

    Args:
        mixtures: the start and the others, as workbench.reports.influence_tables writes them.
    """
    trained, read = list[tuple[str, int]](), ""
    for each in mixtures:
        if proxy := each.get("proxy"):
            trained.append(("proxy", proxy["tokens"]))
            if tokens := proxy["reference_tokens"]:
                read = f" The start, its reference, read {tokens:,} more without training."
        trained.append((label(each), each["tokens"]))
    whole = units.counted(len(trained), "training")
    total = sum(tokens for _, tokens in trained)
    parts = ", ".join(f"{name} {tokens:,}" for name, tokens in trained)
    return f"{whole} of {total:,} tokens ({parts}).{read}"


def weights_html(mixture: Mapping[str, Any]) -> Markup:
    """Returns the weights that a proxy went through; nothing for a mixture of no proxy."""
    if "weights" not in mixture:
        return Markup("")
    weights, steps = mixture["weights"], mixture["proxy"]["steps"]
    title = f"Weights of the domains by {label(mixture)}"
    head = ["domain", "at the start", f"after {units.counted(steps, 'step')}",
            "mean, which is proposed"]  # fmt: skip
    rows = [
        [name, *(units.number(weights[point][name]) for point in ("start", "end", "mean"))]
        for name in weights["mean"]
    ]
    table = markup.table(head, rows, numeric=[1, 2, 3], label=title)
    return Markup("<h3>{}</h3>{}").format(title, table)
