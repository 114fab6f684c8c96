"""A recipe as one line of algebra, as the page and the model card show it."""

from typing import TYPE_CHECKING

from merging import method as methods

if TYPE_CHECKING:
    from merging.recipe import Recipe

MINUS = "−"


def formula(recipe: "Recipe") -> str:
    """The merge with its numbers filled in; ω that vary by layer or part are written ω(layer).

    'Θ + 0.70·Δcot − 0.40·Δmathqa' for task_arithmetic, '(0.50·Θcot + 0.25·Θp3) / 0.75' for linear.
    """
    module = methods.load(recipe.method)
    symbol = "Δ" if module.SPACE == "deltas" else "Θ"
    sign_and_terms = [_term(omega, f"{symbol}{name}") for name, omega in recipe.omegas.items()]
    total = _joined(sign_and_terms)
    arguments = methods.arguments(recipe.method, _scalars(recipe))
    if arguments.get("normalize"):
        total = f"({total}) / {_total(recipe)}"
    factor = arguments.get("lambda_", 1.0)
    if isinstance(recipe.parameters.get("lambda"), list | dict):
        total = f"λ(layer)·({total})"
    elif factor != 1.0:
        total = f"{MINUS if factor < 0 else ''}{abs(factor):g}·({total})"
    if module.SPACE == "weights":
        return total
    if total.startswith(MINUS):
        return f"Θ {MINUS} {total[1:]}"
    return f"Θ + {total}"


def _term(omega: object, name: str) -> tuple[str, str]:
    if isinstance(omega, int | float):
        return (MINUS if omega < 0 else "+", f"{abs(omega):.2f}·{name}")
    return ("+", f"ω(layer)·{name}")


def _joined(terms: list[tuple[str, str]]) -> str:
    first, *rest = terms
    start = (MINUS if first[0] == MINUS else "") + first[1]
    return " ".join([start, *(f"{sign} {term}" for sign, term in rest)])


def _total(recipe: "Recipe") -> str:
    omegas = list(recipe.omegas.values())
    if all(isinstance(omega, int | float) for omega in omegas):
        return f"{sum(omegas):.2f}"
    return "Σω"


def _scalars(recipe: "Recipe") -> dict[str, object]:
    """The recipe's global parameters besides ω that are the same everywhere."""
    return {
        key: value
        for key, value in recipe.parameters.items()
        if key != methods.WEIGHT and not isinstance(value, list | dict)
    }
