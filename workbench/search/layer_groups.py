"""Groups of tensors that may have an ω of their own, and the rules of a recipe that say so.

By depth there are the embeddings, thirds of the layers, and the head; by part attention, MLP, norms
and the others of merging.tensor_names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from merging.tensor_names import PARTS, Place, place

GroupBy = Literal["", "depth", "part"]
GROUP_BY: tuple[GroupBy, ...] = get_args(GroupBy)
THIRDS = ("early layers", "middle layers", "late layers")
DEPTHS = ("embeddings", *THIRDS, "head")

Rules = tuple[tuple[str, str], ...]
"""(part of a tensor's name, group): the first part that a name contains decides."""


def groups_of(tensors: Iterable[str], by: GroupBy) -> dict[str, str]:
    """Returns tensor -> its group.

    By depth, layer i of L is in the third ⌊3i / L⌋; each stack of layers counts for itself. Outside
    the layers all that are no embeddings are the head's.

    Args:
        tensors: all tensors of a model.
        by: "depth" or "part".
    """
    places = {name: place(name) for name in tensors}
    if by == "part":
        return {name: each.part for name, each in places.items()}
    counts: dict[str, int] = {}
    for each in places.values():
        if each.layer is not None:
            counts[each.stack] = max(counts.get(each.stack, 0), each.layer + 1)

    def depth(each: Place) -> str:
        if each.layer is None:
            return "embeddings" if each.part == "embeddings" else "head"
        return THIRDS[3 * each.layer // counts[each.stack]]

    return {name: depth(each) for name, each in places.items()}


def in_order(groups: Iterable[str], by: GroupBy) -> list[str]:
    """Returns groups in reading order."""
    return sorted(groups, key=(PARTS if by == "part" else DEPTHS).index)


def rules_of(groups: Mapping[str, str], by: GroupBy) -> Rules:
    """Returns rules that give each tensor its group; few short ones where names allow it.

    Args:
        groups: tensor -> its group.
        by: what they were made by.
    """
    short = tuple(dict.fromkeys((_pattern(name, by), group) for name, group in groups.items()))
    if all(_first(short, name) == group for name, group in groups.items()):
        return short
    # A name that contains another one is longer, so the longest come first.
    return tuple(sorted(groups.items(), key=lambda each: -len(each[0])))


def _pattern(name: str, by: GroupBy) -> str:
    """Returns the part of a name that its group follows from."""
    each = place(name)
    if each.layer is None:
        return name
    start = f"{each.stack}.{each.layer}." if each.stack else f"{each.layer}."
    return start if by == "depth" else name[len(start) - 1 :]


def _first(rules: Rules, name: str) -> str | None:
    return next((group for part, group in rules if part in name), None)
