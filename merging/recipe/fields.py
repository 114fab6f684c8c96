"""The values of a recipe's keys, one by one: what each must be. Each raises a RecipeError that names the key."""

from collections.abc import Sequence
from typing import Any

from merging.dtypes import DTYPES
from merging.errors import RecipeError
from plumbing.suggest import nearest

ROUNDINGS = ("nearest", "stochastic")


VOCABULARIES = ("refuse", "base", "union")


def mapping(given: Any, where: str) -> dict[Any, Any]:
    """Keys and values; none for null."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise RecipeError(f"{where} is {given!r}, expected keys and values.")
    return given


def text(given: Any, where: str) -> str | None:
    """Text that is not empty, or None."""
    if given is not None and not (isinstance(given, str) and given and "\0" not in given):
        raise RecipeError(f"{where} is {given!r}, expected text.")
    return given


def parts(given: Any, where: str) -> tuple[str, ...]:
    """A list of parts of tensor names, as a tuple."""
    if given is not None and not (
        isinstance(given, list | tuple) and all(isinstance(part, str) and part for part in given)
    ):
        raise RecipeError(
            f"{where} is {given!r}, expected a list of parts of tensor names, for example [embed]."
        )
    return tuple(given or ())


def word(given: Any, where: str, words: tuple[str, ...]) -> str:
    """One of some words."""
    if given not in words:
        raise RecipeError(f"{where} is {given!r}; {nearest(str(given), words)}")
    return str(given)


def seed(given: Any) -> int:
    """A whole number from 0."""
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 2**63:
        raise RecipeError(f"dem.seed is {given!r}, expected a whole number from 0.")
    return given


def dtype(given: Any, where: str) -> str | None:
    """The name of a dtype, without `torch.`; or None."""
    name = given.removeprefix("torch.") if isinstance(given, str) else given
    if name is not None and not (isinstance(name, str) and name in DTYPES):
        raise RecipeError(f"{where} is {given!r}; {nearest(str(given), list(DTYPES))}")
    return name


def unique(name: str, taken: Sequence[str]) -> str:
    """The name, numbered where it is taken: cot, cot-2, cot-3."""
    number, candidate = 2, name
    while candidate in taken:
        number, candidate = number + 1, f"{name}-{number}"
    return candidate
