"""The current formula as HTML, in which the page's script can update each ω during a drag."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from plumbing.units import MINUS

if TYPE_CHECKING:
    from merging.recipe import Recipe

SIGNS = {
    "+ ": ("+ ", f"{MINUS} "),
    f"{MINUS} ": ("+ ", f"{MINUS} "),
    MINUS: ("", MINUS),
    "": ("", MINUS),
}
"""Sign of a term as the formula writes it -> the signs at that position for ω ≥ 0 and ω < 0."""


def formula_html(recipe: Recipe, names: Sequence[str], omegas: Sequence[float]) -> Markup:
    """Returns the recipe's formula as HTML; its text equals `formula(recipe)` apart from spaces.

    A plain sum is set in columns, in which every term keeps its position, so that nothing jumps
    during a drag. Every other formula is one line.

    Args:
        recipe: the recipe.
        names: of the open vectors, in the order of the sliders.
        omegas: of the open vectors, in the same order.
    """
    from merging.recipe.formula import formula

    columns = recipe.method == "task_arithmetic" and not recipe.parameters
    inside, rest = Markup(""), formula(recipe)
    for source in recipe.models:
        omega = recipe.weight(source)
        number = "" if omega is None else f"{abs(omega):.2f}·"
        symbol = "Δ" if f"{number}Δ{source.name}" in rest else "Θ"
        before, _, rest = rest.partition(f"{number}{symbol}{source.name}")
        sign = (
            "" if omega is None else next(written for written in SIGNS if before.endswith(written))
        )
        lead = before.removesuffix(sign)
        inside += (
            Markup('<span class="theta">{}</span>').format(lead.strip())
            if columns and lead.strip()
            else lead
        )
        index = names.index(source.name) if source.name in names else -1
        inside += _term(index, sign, omega, symbol, source.name)
    # gradio skips an update that equals the last one. The time makes every update different, which
    # is needed because the page's script may have changed the formula that is shown.
    return Markup(
        '<div class="formula {}" data-omegas="{}" data-method="{}" data-digest="{}" data-at="{}">'
        "{}{}</div>"
    ).format(
        "columns" if columns else "line",
        " ".join(f"{omega:g}" for omega in omegas),
        recipe.method,
        recipe.digest,
        time.monotonic_ns(),
        inside,
        rest,
    )


def _term(index: int, sign: str, omega: float | None, symbol: str, name: str) -> Markup:
    """Returns the term of one vector; the page's script finds it by the index of its slider."""
    number = Markup("")
    if omega is not None:
        number = Markup(
            '<span class="sign" data-plus="{}" data-minus="{}">{}</span><b>{}</b>·'
        ).format(*SIGNS[sign], sign, f"{abs(omega):.2f}")
    return Markup(
        '<span class="term{}" data-term="{}">{}{}<span class="name">{}</span></span>'
    ).format(" zero" if omega == 0 else "", index, number, symbol, name)
