"""A parameter's setting in a recipe: a number, a gradient over the layers, or rules by tensor name.

The grammar is mergekit's, quirks included, so that a recipe gives the same ω in either tool:

    0.7                                     everywhere
    [0.0, 0.5, 1.0]                         interpolated from the first layer to the last; outside the layers, and so
                                            for the head and the final norm too, the FIRST value
    [{filter: mlp, value: 0.5}, {value: 1}] the first rule whose filter is a substring of the tensor's name
"""

import math
from typing import Any

from merging.errors import RecipeError
from plumbing.suggest import nearest

Scalar = float | int | bool | str
Setting = Any
"""A scalar, a list of scalars, a rule, or a list of rules; see the module's first lines."""


def check(setting: Setting, where: str, words: tuple[str, ...] = ()) -> Setting:
    """A setting with its numbers checked, numeric text such as '1e-3' (YAML 1.1 reads it as text) made a number.

    Args:
        setting: as it was read.
        where: the key, for messages.
        words: the words that the parameter takes, where it takes words.

    Raises:
        RecipeError: naming the key and what was expected.
    """
    if isinstance(setting, list):
        if not setting:
            raise RecipeError(f"{where} is an empty list, expected a number, a gradient or rules.")
        if any(isinstance(entry, dict) for entry in setting):
            return [
                _rule(entry, f"{where}[{number}]", words) for number, entry in enumerate(setting)
            ]
        return [_scalar(entry, f"{where}[{number}]", words) for number, entry in enumerate(setting)]
    return (
        _rule(setting, where, words)
        if isinstance(setting, dict)
        else _scalar(setting, where, words)
    )


def path(value: Setting, where: str) -> str:
    """The path of a file, the same for all tensors.

    Raises:
        RecipeError: naming the key and what was expected.
    """
    if not (isinstance(value, str) and value.strip() and value.isprintable()):
        raise RecipeError(f"{where} is {str(value)[:80]!r}, expected the path of one file.")
    return value


def resolve(setting: Setting, name: str, depth: float) -> Scalar | None:
    """The value of a setting at one tensor.

    Args:
        setting: a checked setting.
        name: the tensor's name.
        depth: i/(L−1) of its layer, 1 if there is one layer, 0 outside the layers.

    Returns:
        the value, or None when no rule matches.

    >>> resolve([0.0, 0.4, 1.0], "layers.3.w", 0.75)
    0.7
    """
    if isinstance(setting, dict):
        setting = [setting]
    if isinstance(setting, list) and isinstance(setting[0], dict):
        for rule in setting:
            wanted = rule.get("filter")
            if wanted in (None, "*") or wanted in name:
                return resolve(rule["value"], name, depth)
        return None
    if isinstance(setting, list):
        position = depth * (len(setting) - 1)
        low = math.floor(position)
        high = min(low + 1, len(setting) - 1)
        if isinstance(setting[low], bool | str):
            value: Scalar = setting[low]
            return value
        share = position - low
        return float((1 - share) * setting[low] + share * setting[high])
    found: Scalar = setting
    return found


def filters(setting: Setting) -> list[str]:
    """The filters that a setting names, to check that each matches a tensor."""
    rules = setting if isinstance(setting, list) else [setting]
    return [
        rule["filter"]
        for rule in rules
        if isinstance(rule, dict) and rule.get("filter") not in (None, "*")
    ]


def _rule(entry: Any, where: str, words: tuple[str, ...]) -> dict[str, Any]:
    if not (isinstance(entry, dict) and "value" in entry and set(entry) <= {"filter", "value"}):
        raise RecipeError(
            f"{where} is {entry!r}, expected {{filter: part of a tensor's name, value: number}}."
        )
    wanted = entry.get("filter")
    if wanted is not None and not isinstance(wanted, str):
        raise RecipeError(f"{where}.filter is {wanted!r}, expected a part of a tensor's name.")
    value = check(entry["value"], f"{where}.value", words)
    return {"value": value} if wanted is None else {"filter": wanted, "value": value}


def _scalar(value: Any, where: str, words: tuple[str, ...]) -> Scalar:
    if isinstance(value, bool):
        return value
    if words:
        if value not in words:
            raise RecipeError(f"{where} is {str(value)[:80]!r}; {nearest(str(value), words)}")
        return str(value)
    try:
        number = (
            float(value) + 0.0
        )  # −0 becomes 0, and 1 becomes 1.0: equal settings are written alike
    except (TypeError, ValueError, OverflowError):
        raise RecipeError(f"{where} is {str(value)[:80]!r}, expected a number.") from None
    if not math.isfinite(number):
        raise RecipeError(f"{where} is {value!r}, expected a finite number.")
    return number
