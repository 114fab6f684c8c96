"""Checks of a recipe's single values. Each returns the value or raises a RecipeError with its key.

`raw` is always the value as YAML gives it, and `key` is how the message calls it.
"""

from collections.abc import Sequence
from typing import Any

from merging.dtypes import check_dtype
from merging.errors import RecipeError
from plumbing.suggest import nearest

ROUNDINGS = ("nearest", "stochastic")
"""How values are rounded to the output dtype; see merging.engine.stochastic_rounding."""

VOCABULARIES = ("refuse", "base", "union")
"""What is done with a checkpoint of another vocabulary; see merging.inputs.vocabulary."""


def mapping(raw: Any, key: str) -> dict[Any, Any]:
    """Checks for keys and values; null is an empty mapping."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise RecipeError(f"{key} is {raw!r}, expected keys and values.")
    return raw


def text(raw: Any, key: str) -> str | None:
    """Checks for text that is not empty, or null."""
    # Names and paths: Python raises a ValueError when a path with a zero byte is opened.
    if raw is not None and not (isinstance(raw, str) and raw and "\0" not in raw):
        raise RecipeError(f"{key} is {raw!r}, expected text.")
    return raw


def parts(raw: Any, key: str) -> tuple[str, ...]:
    """Checks for a list of parts of tensor names; null is an empty list."""
    if raw is not None and not (
        isinstance(raw, list | tuple) and all(isinstance(part, str) and part for part in raw)
    ):
        raise RecipeError(
            f"{key} is {raw!r}, expected a list of parts of tensor names, for example [embed]."
        )
    return tuple(raw or ())


def word(raw: Any, key: str, words: tuple[str, ...]) -> str:
    """Checks for one of the given words."""
    if raw not in words:
        raise RecipeError(f"{key} is {raw!r}; {nearest(str(raw), words)}")
    return str(raw)


def seed(raw: Any) -> int:
    """Checks for a whole number from 0 to 2⁶³ − 1."""
    # For Python, True is an int too.
    if isinstance(raw, bool) or not isinstance(raw, int) or not 0 <= raw < 2**63:
        raise RecipeError(f"dem.seed is {raw!r}, expected a whole number from 0.")
    return raw


def dtype(raw: Any, key: str) -> str | None:
    """Checks for a dtype, with or without `torch.`, or null; see merging.dtypes."""
    return None if raw is None else check_dtype(raw, key)


def unique_name(name: str, taken: Sequence[str]) -> str:
    """Returns the name, with a number if it is taken already: cot, cot-2, cot-3."""
    number, candidate = 2, name
    while candidate in taken:
        number, candidate = number + 1, f"{name}-{number}"
    return candidate
