"""Writes a recipe as one line of algebra, for the page and the model card."""

import math
from decimal import Decimal

from merging.methods._values import Value
from merging.recipe.recipe import Recipe

MINUS = "−"

PLAIN = ("task_arithmetic", "linear")
"""Methods that are nothing but a sum, so that they are written as one."""


def formula(recipe: Recipe) -> str:
    """Returns the formula of a merge with its numbers filled in.

    ω that vary by layer or by part of the model are written ω(layer). Examples:

        task_arithmetic   Θ + 0.70·Δcot − 0.40·Δmathqa
        linear            (0.50·Θcot + 0.25·Θp3) / 0.75
        ties              Θ + ties(0.70·Δcot, 0.40·Δmathqa; density 0.2)
        slerp             slerp(Θ, Θcot; t 0.5)
        slices            passthrough: Θa[0:3] ⧺ Θb[0:2]
    """
    if recipe.slices:
        return _slices(recipe)
    return _sum(recipe) if recipe.method in PLAIN else _call(recipe)


def omega_text(omega: float) -> str:
    """Writes ω with at least two decimals and with all digits that it has.

    >>> omega_text(0.5), omega_text(0.127), omega_text(1e-7)
    ('0.50', '0.127', '0.0000001')
    """
    text = format(Decimal(repr(float(omega))), "f")
    whole, _, digits = text.partition(".")
    return f"{whole}.{digits.rstrip('0').ljust(2, '0')}"


def _sum(recipe: Recipe) -> str:
    """Writes a method of PLAIN as a sum, with divisor and factor if they are not 1."""
    deltas = recipe.definition.space == "deltas"
    terms = [
        _term(omega, f"{'Δ' if deltas else 'Θ'}{name}") for name, omega in recipe.omegas.items()
    ]
    total = _join(terms)
    # With the defaults: `linear` divides by the sum of the ω without a key that says so.
    arguments = recipe.definition.arguments(_scalars(recipe))
    if arguments["normalize"]:
        total = f"({total}) / {_total(recipe)}"
    factor = arguments.get("lambda_", 1.0)
    if isinstance(recipe.parameters.get("lambda"), list | dict):
        total = f"λ(layer)·({total})"
    elif factor != 1.0:
        total = f"{MINUS if factor < 0 else ''}{abs(factor):g}·({total})"
    if not deltas:
        return total
    # A leading minus becomes the operator: Θ − 0.40·Δ, not Θ + −0.40·Δ.
    return f"Θ {MINUS} {total[1:]}" if total.startswith(MINUS) else f"Θ + {total}"


def _call(recipe: Recipe) -> str:
    """Writes the method as a function of its models and of the parameters not at their defaults."""
    role = recipe.definition.base_role
    deltas = role == "origin" or (role == "optional" and recipe.base is not None)
    symbol = "Δ" if deltas else "Θ"
    if recipe.definition.weighted:
        signs = [_term(omega, f"{symbol}{name}") for name, omega in recipe.omegas.items()]
        operands = [term if sign == "+" else f"{sign}{term}" for sign, term in signs]
    else:
        operands = [f"{symbol}{source.name}" for source in recipe.models]
    # The base's own values are an argument of such a method, not only where deltas begin.
    operands = ["Θ", *operands] if role == "operand" else operands
    shown = [param for param in recipe.definition.parameters if not param.file]
    settings = [_parameter(recipe, param.name, param.default) for param in shown]
    arguments = [", ".join(operands), ", ".join(filter(None, settings))]
    call = f"{recipe.method}({'; '.join(filter(None, arguments))})"
    return f"Θ + {call}" if deltas else call


def _parameter(recipe: Recipe, name: str, default: Value | None) -> str:
    """Writes a parameter: 'density 0.2', or 'density(model)' if the models have their own values.

    '' if it is at its default.
    """
    if any(name in source.parameters for source in recipe.models):
        return f"{name}(model)"
    value = recipe.parameters.get(name, default)
    if value == default:
        return ""
    if isinstance(value, list | dict):
        return f"{name}(layer)"
    if isinstance(value, bool):
        return f"{name} {str(value).lower()}"
    return f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}"


def _term(omega: object, name: str) -> tuple[str, str]:
    """Returns a term of the sum as its sign and the rest."""
    if isinstance(omega, int | float):
        return (MINUS if omega < 0 else "+", f"{omega_text(abs(omega))}·{name}")
    return ("+", f"ω(layer)·{name}")


def _join(terms: list[tuple[str, str]]) -> str:
    """Joins signed terms; a + before the first one is left out."""
    first, *rest = terms
    start = (MINUS if first[0] == MINUS else "") + first[1]
    return " ".join([start, *(f"{sign} {term}" for sign, term in rest)])


def _total(recipe: Recipe) -> str:
    """Returns the sum of the ω as text, or Σω if it is not the same for all tensors."""
    omegas = list(recipe.omegas.values())
    if all(isinstance(omega, int | float) for omega in omegas):
        # Rounded, because a sum such as 0.1 + 0.2 has digits that nobody has set.
        return omega_text(round(math.fsum(omegas), 10))
    return "Σω"


def _scalars(recipe: Recipe) -> dict[str, object]:
    """Returns the recipe's own parameters, without ω, that are the same for all tensors."""
    names = [param.name for param in recipe.definition.parameters]
    return {
        key: value
        for key, value in recipe.parameters.items()
        if key in names and not isinstance(value, list | dict)
    }


def _slices(recipe: Recipe) -> str:
    """Writes the slices one after another: 'slerp: (Θa[0:3], Θb[0:3]) ⧺ Θa[3:5]'."""
    parts = []
    for part in recipe.slices:
        runs = [f"Θ{source.model}[{source.start}:{source.stop}]" for source in part.sources]
        parts.append(runs[0] if len(runs) == 1 else f"({', '.join(runs)})")
    return f"{recipe.method}: {' ⧺ '.join(parts)}"
