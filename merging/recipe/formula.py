"""A recipe as one line of algebra, as the page and the model card show it."""

from merging.methods import _contract as methods
from merging.recipe.recipe import Recipe

MINUS = "−"


PLAIN = ("task_arithmetic", "linear")
"""Methods that are a sum and nothing else, and so are written as one."""


def formula(recipe: Recipe) -> str:
    """The merge with its numbers filled in; ω that vary by layer or part are written ω(layer).

    'Θ + 0.70·Δcot − 0.40·Δmathqa' for task_arithmetic, '(0.50·Θcot + 0.25·Θp3) / 0.75' for linear,
    'Θ + ties(0.70·Δcot, 0.40·Δmathqa; density 0.2)' and 'slerp(Θ, Θcot; t 0.5)' for others.
    """
    if recipe.slices:
        return _slices(recipe)
    return _sum(recipe) if recipe.method in PLAIN else _call(recipe)


def _sum(recipe: Recipe) -> str:
    deltas = recipe.definition.space == "deltas"
    terms = [
        _term(omega, f"{'Δ' if deltas else 'Θ'}{name}") for name, omega in recipe.omegas.items()
    ]
    total = _joined(terms)
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
    return f"Θ {MINUS} {total[1:]}" if total.startswith(MINUS) else f"Θ + {total}"


def _call(recipe: Recipe) -> str:
    """The method as a function of what it combines and of the parameters that are not at their defaults."""
    role = recipe.definition.base_role
    deltas = role == "origin" or (role == "optional" and recipe.base is not None)
    symbol = "Δ" if deltas else "Θ"
    if recipe.definition.weighted:
        signs = [_term(omega, f"{symbol}{name}") for name, omega in recipe.omegas.items()]
        operands = [term if sign == "+" else f"{sign}{term}" for sign, term in signs]
    else:
        operands = [f"{symbol}{source.name}" for source in recipe.models]
    operands = ["Θ", *operands] if role == "operand" else operands
    shown = [param for param in recipe.definition.parameters if not param.file]
    given = [_parameter(recipe, param.name, param.default) for param in shown]
    call = f"{recipe.method}({'; '.join(filter(None, [', '.join(operands), ', '.join(filter(None, given))]))})"
    return f"Θ + {call}" if deltas else call


def _parameter(recipe: Recipe, name: str, default: methods.Value | None) -> str:
    """'density 0.2' where a parameter is not at its default; 'density(model)' where each model has its own."""
    if any(name in source.parameters for source in recipe.models):
        return f"{name}(model)"
    value = recipe.parameters.get(name, default)
    if value == default:
        return ""
    if isinstance(value, list | dict):
        return f"{name}(layer)"
    return f"{name} {str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else f'{value:g}'}"


def _term(omega: object, name: str) -> tuple[str, str]:
    if isinstance(omega, int | float):
        return (MINUS if omega < 0 else "+", f"{abs(omega):.2f}·{name}")
    return ("+", f"ω(layer)·{name}")


def _joined(terms: list[tuple[str, str]]) -> str:
    first, *rest = terms
    start = (MINUS if first[0] == MINUS else "") + first[1]
    return " ".join([start, *(f"{sign} {term}" for sign, term in rest)])


def _total(recipe: Recipe) -> str:
    omegas = list(recipe.omegas.values())
    if all(isinstance(omega, int | float) for omega in omegas):
        return f"{sum(omegas):.2f}"
    return "Σω"


def _scalars(recipe: Recipe) -> dict[str, object]:
    """The recipe's global parameters besides ω that are the same everywhere."""
    known = [param.name for param in recipe.definition.parameters]
    return {
        key: value
        for key, value in recipe.parameters.items()
        if key in known and not isinstance(value, list | dict)
    }


def _slices(recipe: Recipe) -> str:
    """The layers one after another: 'passthrough: Θa[0:3] ⧺ Θb[0:2]', 'slerp: (Θa[0:3], Θb[0:3])'."""
    parts = []
    for part in recipe.slices:
        runs = [f"Θ{source.model}[{source.start}:{source.stop}]" for source in part.sources]
        parts.append(runs[0] if len(runs) == 1 else f"({', '.join(runs)})")
    return f"{recipe.method}: {' ⧺ '.join(parts)}"
