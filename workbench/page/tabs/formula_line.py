"""The formula in force as HTML: the recipe's own line of algebra, with each vector's ω where the page can follow a drag."""

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
"""A term's sign as written -> how it is written there for a positive and for a negative ω."""


def formula_html(recipe: Recipe, names: Sequence[str], omegas: Sequence[float]) -> Markup:
    """The formula of what the page stands at; its text is the recipe's, character by character.

    A plain sum is set in columns, in which every vector keeps its place, so that nothing jumps; all else as a line.
    """
    from merging.recipe.formula import formula

    columns = recipe.method == "task_arithmetic" and not recipe.parameters
    inside, rest = Markup(""), formula(recipe)
    for source in recipe.models:
        omega = recipe.weight(source)
        number = "" if omega is None else f"{abs(omega):.2f}·"
        symbol = "Δ" if f"{number}Δ{source.name}" in rest else "Θ"
        before, _, rest = rest.partition(f"{number}{symbol}{source.name}")
        sign = "" if omega is None else next(one for one in SIGNS if before.endswith(one))
        lead = before.removesuffix(sign)
        inside += (
            Markup('<span class="theta">{}</span>').format(lead.strip())
            if columns and lead.strip()
            else lead
        )
        place = names.index(source.name) if source.name in names else -1
        inside += _term(place, sign, omega, symbol, source.name)
    # the time makes equal formulas unequal values: the page's script may have written into the one that is shown
    return Markup(
        '<div class="formula {}" data-omegas="{}" data-method="{}" data-digest="{}" data-at="{}">{}{}</div>'
    ).format(
        "columns" if columns else "line",
        " ".join(f"{omega:g}" for omega in omegas),
        recipe.method,
        recipe.digest,
        time.monotonic_ns(),
        inside,
        rest,
    )


def _term(place: int, sign: str, omega: float | None, symbol: str, name: str) -> Markup:
    """One vector's term; the page's script finds it by its place among the sliders."""
    number = Markup("")
    if omega is not None:
        number = Markup(
            '<span class="sign" data-plus="{}" data-minus="{}">{}</span><b>{}</b>·'
        ).format(*SIGNS[sign], sign, f"{abs(omega):.2f}")
    return Markup(
        '<span class="term{}" data-term="{}">{}{}<span class="name">{}</span></span>'
    ).format(" zero" if omega == 0 else "", place, number, symbol, name)
