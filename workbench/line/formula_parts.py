"""The formula of a recipe in parts, of which the page changes the numbers while a hand moves ω."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def formula_parts(recipe: Recipe) -> dict[str, Any]:
    """Returns the recipe's formula cut at its terms; joined again, it is `formula(recipe)`.

    Returns:
        columns: whether it is a plain sum, which the page sets in columns so that nothing jumps
            while a slider moves.
        parts: texts, and terms with the vector's name, its ω (None if the method has none), the
            symbol Δ or Θ, and the signs for ω ≥ 0 and for ω < 0.
    """
    from merging.recipe.formula import formula, omega_text

    parts: list[dict[str, Any]] = []
    rest = formula(recipe)
    for source in recipe.models:
        omega = recipe.weight(source)
        number = "" if omega is None else f"{omega_text(abs(omega))}·"
        symbol = "Δ" if f"{number}Δ{source.name}" in rest else "Θ"
        before, _, rest = rest.partition(f"{number}{symbol}{source.name}")
        sign = (
            "" if omega is None else next(written for written in SIGNS if before.endswith(written))
        )
        if lead := before.removesuffix(sign):
            parts.append({"text": lead})
        parts.append(
            {"name": source.name, "omega": omega, "symbol": symbol, "signs": list(SIGNS[sign])}
        )
    if rest:
        parts.append({"text": rest})
    plain = recipe.method == "task_arithmetic" and not recipe.parameters
    return {"columns": plain, "parts": parts}
