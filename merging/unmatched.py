"""Says how a checkpoint's tensors differ from the base's if no renaming makes them the same."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from merging.tensor_names import place
from plumbing.suggest import listed


class Unmatched(NamedTuple):
    """A tensor without a counterpart."""

    shape: tuple[int, ...]
    table: bool
    """Whether it has a row per token, as embeddings and heads have."""


def explain(
    where: str,
    shared: int,
    missing: Mapping[str, Unmatched],
    extra: Mapping[str, Unmatched],
    note: str,
) -> str:
    """Returns the message for a checkpoint whose tensor names differ from the base's.

    Args:
        where: the checkpoint.
        shared: how many tensors both have.
        missing: what the checkpoint lacks of the base.
        extra: what the base lacks of the checkpoint.
        note: what was renamed; empty if nothing.
    """
    sizes = [sum(math.prod(each.shape) for each in side.values()) for side in (missing, extra)]
    again = "load both with one class and version of transformers and save them again"
    tables = [each.table for each in (*missing.values(), *extra.values())]
    places = [place(name) for name in (*missing, *extra)]
    if shared and all(tables):
        hint = (
            "One of the two ties its output head to its embeddings and the other does not: save "
            "both the same way (tie_word_embeddings in config.json)."
        )
    elif missing and extra and sizes[0] == sizes[1]:
        hint = (
            f"These are equally many numbers ({sizes[0]:,}) under other names, and no one renaming "
            "makes them the base's: one of the two stores them fused, split, or named by another "
            f"tool. If both are one model, {again}; else choose the base that it was trained from."
        )
    elif shared and extra and not missing:
        hint = (
            "These exist only in the fine-tune: a part that was trained beside the model, such as "
            "the head of a value, reward or classification model, and the base has nothing to add "
            "them to. Load the fine-tune with the base's class (architectures in config.json) and "
            "save it again: that leaves them out."
        )
    elif shared and missing and not extra:
        hint = (
            "It was saved without a part that the base has, such as the head of a task: if both "
            f"are one model, {again}; else choose the base that it was trained from."
        )
    elif shared and all(at.layer is None and at.part != "embeddings" for at in places):
        hint = (
            "Their heads are for different tasks. Load both with the class of the body "
            "(transformers' AutoModel) and save them again, without heads, to merge these; or "
            "choose the base that it was trained from."
        )
    else:
        hint = (
            "No one renaming makes its names the base's: choose the base that it was trained from, "
            f"or, if both are one model, {again}."
        )
    after = f", after renaming: {note}" if note else ""
    parts = [f"it lacks {listed(list(missing), 3)}"] if missing else []
    parts += [f"it has {listed(list(extra), 3)}, which the base lacks"] if extra else []
    differences = "; ".join(parts)
    return (
        f"{where} does not have the base's tensors ({shared} are shared{after}): {differences}. "
        f"{hint}"
    )
