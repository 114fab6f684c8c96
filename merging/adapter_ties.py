"""Decides what an adapter on embeddings or on the head means for a base that ties the two.

Such a base stores one matrix, which both modules use. PEFT puts factors on modules, so before it is
merged an adapter moves only the module that it is on, and afterwards both. With
ensure_weight_tying=True PEFT trains both as one, and writes the factors twice, once transposed.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from merging.adapter_keys import Adapted, Keys
from merging.errors import MismatchError
from merging.tensor_names import place

Shape = tuple[int, ...]


def resolve_heads(
    where: str,
    keys: Keys,
    names: Mapping[str, str],
    shapes: tuple[Mapping[str, Shape], Mapping[str, Shape]],
    adapter: tuple[Mapping[str, Tensor], Mapping[str, Any]],
) -> tuple[dict[str, str], list[str]]:
    """Finds the embeddings that stand for a tied head of the adapter's.

    Factors of a head that are those of the embeddings once more are removed from `keys`.

    Args:
        where: the adapter, for messages.
        keys: the tensors of its file.
        names: name after the adapter's modules -> the base's name, as far as it was found.
        shapes: of what the adapter changes or copies, by its names (of B·A, if it changes it); and
            of the base's embeddings.
        adapter: the adapter's factors, and the base's config.json.

    Returns:
        name of a head after the adapter's modules -> the base's embeddings; and what the user
        should know.

    Raises:
        MismatchError: if the adapter moves a tied head alone, or otherwise than the embeddings.
    """
    (own_shapes, tables), (stored, config) = shapes, adapter
    # A configuration without the key says nothing; then a head that the base lacks is tied.
    tied = config.get("tie_word_embeddings") is True
    found: dict[str, str] = {}
    notes = []
    for head, wanted in own_shapes.items():
        own = Adapted(head.removesuffix(".weight"), False)
        fitting = [name for name, shape in tables.items() if shape == wanted]
        if place(head).part != "head" or (head in names and not tied) or len(fitting) != 1:
            continue
        found[head] = fitting[0]
        if own in keys.factors:
            _remove_twice(where, (keys, own), (names, fitting[0]), stored)
            notes.append(f"its factors of {own.module} are those of the embeddings; added once.")
    for adapted in keys.factors if tied and not found else ():
        table = names.get(f"{adapted.module}.weight", "")
        if adapted.embedding and table in tables:
            notes.append(
                f"the base ties its head to {table}, which it adapts: merged, it moves the head "
                "too, as with peft's merge_and_unload; trained without ensure_weight_tying it did "
                "not."
            )
    return found, notes


def _remove_twice(
    where: str,
    head: tuple[Keys, Adapted],
    table: tuple[Mapping[str, str], str],
    stored: Mapping[str, Tensor],
) -> None:
    """Removes a tied head's factors from the keys if they are those of the embeddings again.

    Args:
        where: the adapter, for messages.
        head: the tensors of its file, and the head.
        table: the names that were found in the base, and the embeddings' name.
        stored: the adapter's factors.
    """
    (keys, own), (names, embeddings) = head, table
    a, b = (stored[keys.factors[own][side]] for side in "AB")
    for other, pair in keys.factors.items():
        same = other.embedding and names.get(f"{other.module}.weight") == embeddings
        if same and torch.equal(a, stored[pair["B"]].T) and torch.equal(b, stored[pair["A"]].T):
            del keys.factors[own]
            return
    raise MismatchError(
        f"{where}: it adapts {own.module!r}, which the base ties to {embeddings!r}: one matrix is "
        "stored for both, and in training the adapter moved the head alone (or both, each by its "
        "own). Give a base that stores its head apart (load it with tie_word_embeddings=False and "
        "save it), or train with ensure_weight_tying=True in LoraConfig."
    )
