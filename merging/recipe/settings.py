"""The setting of a parameter in a recipe: a number, a gradient over layers, or rules by name.

The grammar is mergekit's, quirks included, so that a recipe gives the same ω in either tool:

    0.7                                     everywhere
    [0.0, 0.5, 1.0]                         interpolated from the first layer to the last. Outside
                                            the layers it is the FIRST value, so for the head and
                                            the final norm too
    [{filter: mlp, value: 0.5}, {value: 1}] the first rule whose filter is a substring of the
                                            tensor's name
"""

import math
from typing import Any

from merging.errors import RecipeError
from merging.methods._values import Range
from plumbing.suggest import nearest

Scalar = float | int | bool | str
Setting = Any
"""A scalar, a list of scalars, a rule, or a list of rules; see the module's first lines."""

UNBOUNDED = Range(-math.inf, math.inf)


def check(
    setting: Setting, key: str, words: tuple[str, ...] = (), bounds: Range = UNBOUNDED
) -> Setting:
    """Returns a setting with all its numbers and words checked.

    Numeric text such as '1e-3' becomes a number: YAML 1.1 reads it as text.

    Args:
        setting: as it was read.
        key: how messages call it.
        words: the words that the parameter takes; () if it takes numbers.
        bounds: the range of its numbers.

    Raises:
        RecipeError: an empty list, a malformed rule, or a value that the parameter does not take.
    """
    if isinstance(setting, list):
        if not setting:
            raise RecipeError(f"{key} is an empty list, expected a number, a gradient or rules.")
        # One rule makes it a list of rules: a number among them is a mistake, not a gradient.
        read = _rule if any(isinstance(entry, dict) for entry in setting) else _scalar
        return [
            read(entry, f"{key}[{number}]", words, bounds) for number, entry in enumerate(setting)
        ]
    read = _rule if isinstance(setting, dict) else _scalar
    return read(setting, key, words, bounds)


def path(value: Setting, key: str) -> str:
    """Returns the path of a file, which must be the same for all tensors.

    Raises:
        RecipeError: not one printable path, for example a gradient.
    """
    if not (isinstance(value, str) and value.strip() and value.isprintable()):
        raise RecipeError(f"{key} is {str(value)[:80]!r}, expected the path of one file.")
    return value


def resolve(setting: Setting, name: str, depth: float) -> Scalar | None:
    """Returns the value of a setting for one tensor; None if no rule matches.

    Args:
        setting: a checked setting.
        name: the tensor's name.
        depth: i/(L−1) for layer i of L; 1 if there is only one layer, 0 outside the layers.

    >>> resolve([0.0, 0.4, 1.0], "layers.3.w", 0.75)
    0.7
    """
    if isinstance(setting, dict):
        setting = [setting]
    if isinstance(setting, list) and isinstance(setting[0], dict):
        for rule in setting:
            pattern = rule.get("filter")
            if pattern in (None, "*") or pattern in name:
                return resolve(rule["value"], name, depth)
        return None
    if isinstance(setting, list):
        position = depth * (len(setting) - 1)
        low = math.floor(position)
        # At the last layer, low is the last entry already.
        high = min(low + 1, len(setting) - 1)
        # Words and true or false cannot be interpolated; each holds up to the next one.
        if isinstance(setting[low], bool | str):
            value: Scalar = setting[low]
            return value
        share = position - low
        return float((1 - share) * setting[low] + share * setting[high])
    scalar: Scalar = setting
    return scalar


def filters(setting: Setting) -> list[str]:
    """Returns the filters of a setting's rules, so that a caller can check that each matches."""
    rules = setting if isinstance(setting, list) else [setting]
    return [
        rule["filter"]
        for rule in rules
        if isinstance(rule, dict) and rule.get("filter") not in (None, "*")
    ]


def _rule(entry: Any, key: str, words: tuple[str, ...], bounds: Range) -> dict[str, Any]:
    """Checks one rule of a list of rules."""
    if not (isinstance(entry, dict) and "value" in entry and set(entry) <= {"filter", "value"}):
        raise RecipeError(
            f"{key} is {entry!r}, expected {{filter: part of a tensor's name, value: number}}."
        )
    pattern = entry.get("filter")
    if pattern is not None and not isinstance(pattern, str):
        raise RecipeError(f"{key}.filter is {pattern!r}, expected a part of a tensor's name.")
    value = check(entry["value"], f"{key}.value", words, bounds)
    return {"value": value} if pattern is None else {"filter": pattern, "value": value}


def _scalar(value: Any, key: str, words: tuple[str, ...], bounds: Range) -> Scalar:
    """Checks one number or word."""
    # Before the numbers, because True is a number for Python. Whether the parameter takes true or
    # false, the method's own check decides.
    if isinstance(value, bool):
        return value
    if words:
        if value not in words:
            raise RecipeError(f"{key} is {str(value)[:80]!r}; {nearest(str(value), words)}")
        return str(value)
    try:
        # −0 becomes 0, and 1 becomes 1.0, so that equal settings give equal digests and files.
        number = float(value) + 0.0
    except (TypeError, ValueError, OverflowError):
        raise RecipeError(f"{key} is {str(value)[:80]!r}, expected a number.") from None
    if not math.isfinite(number):
        raise RecipeError(f"{key} is {value!r}, expected a finite number.")
    if not bounds.low <= number <= bounds.high:
        raise RecipeError(
            f"{key} is {value!r}; it must be between {bounds.low:g} and {bounds.high:g}."
        )
    return number
