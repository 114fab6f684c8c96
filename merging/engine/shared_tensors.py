"""Finds the tensors that a base stores under several names and that are one parameter of the model.

Such as an LM head beside an equal embedding, or T5's `shared`, `encoder.embed_tokens` and
`decoder.embed_tokens`. A module in memory has one parameter for all of them. So they must be one
tensor to masks, rounding, filters and rules as well; otherwise an export would hold two tensors
that differ where the module has one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from merging.inputs.checkpoint import Weights, dtype_of, read_block, shape_of
from merging.inputs.vector import DistributionVector, Vector
from merging.tensor_names import is_buffer, place

PROBE = 2**12
"""Elements that are compared first; they tell nearly all tensors apart."""
_CACHE = "_shared_tensors"


def shared_tensors(base: Weights, vectors: Iterable[Vector] = ()) -> dict[str, str]:
    """Returns each further name of a tensor -> its first name in the base's order.

    Two names share a tensor if both are outside the numbered layers, and shape, dtype and all
    values are equal. (Equal tensors of two layers are two parameters: layers were copied.)
    Tensors of one repeated value, such as new biases and norms, may be equal by chance: they share
    a tensor only if the fine-tuned checkpoints have equal values under both names too, and not one
    repeated value everywhere. A head is never shared with an embedding if config.json says
    `tie_word_embeddings: false`.

    Args:
        base: Θ. The result is kept with it, if it is a checkpoint or `in_memory`.
        vectors: asked about tensors of one repeated value.
    """
    first, constant = _equal_in(base)
    proofs = [vector for vector in vectors if isinstance(vector, DistributionVector)]
    if not constant or not proofs:
        return first
    return first | _proved(constant, proofs)


def _equal_in(base: Weights) -> tuple[dict[str, str], list[list[str]]]:
    """Returns names that share a tensor, and groups of names with equal tensors of one value."""
    # The base's own identity too: a view of it copies its attributes.
    kept = getattr(base, _CACHE, None)
    if kept is not None and kept[0] == id(base):
        found: tuple[dict[str, str], list[list[str]]] = kept[1]
        return found
    alike: dict[Any, list[str]] = {}
    for name in base:
        shape, dtype = shape_of(base, name), dtype_of(base, name)
        weight = dtype.is_floating_point and not is_buffer(name, len(shape))
        if weight and 0 not in shape and place(name).layer is None:
            alike.setdefault((shape, dtype), []).append(name)
    untied = _says_untied(getattr(base, "config", {}))
    first: dict[str, str] = {}
    constant: list[list[str]] = []
    for names in alike.values():
        for group in _equal_groups(base, names):
            if _is_constant(base, group[0]):
                constant.append(group)
                continue
            heads = {name for name in group if place(name).part == "head"} if untied else set()
            for members in ([name for name in group if name not in heads], sorted(heads)):
                first |= dict.fromkeys(members[1:], members[0]) if members else {}
    if hasattr(base, "__dict__"):
        vars(base)[_CACHE] = (id(base), (first, constant))
    return first, constant


def _says_untied(config: Mapping[str, Any]) -> bool:
    """Returns whether a configuration says that head and embeddings are two parameters."""
    levels = (config, config.get("text_config"))
    return any(
        isinstance(level, dict) and level.get("tie_word_embeddings") is False for level in levels
    )


def _equal_groups(weights: Weights, names: Sequence[str]) -> list[list[str]]:
    """Returns the groups of two or more names whose tensors are equal bit for bit."""
    if len(names) < 2:
        return []
    # By their first bytes, so that whole tensors are read only where they are probably equal.
    probes: dict[bytes, list[str]] = {}
    for name in names:
        size = min(math.prod(shape_of(weights, name)), PROBE)
        probe = read_block(weights, name, 0, size).cpu().contiguous()
        probes.setdefault(probe.view(torch.uint8).numpy().tobytes(), []).append(name)
    groups: list[list[str]] = []
    for likely in probes.values():
        rest = likely
        while len(rest) > 1:
            whole = _bits(weights, rest[0])
            same = [name for name in rest[1:] if torch.equal(whole, _bits(weights, name))]
            if same:
                groups.append([rest[0], *same])
            rest = [name for name in rest[1:] if name not in same]
    return groups


def _bits(weights: Weights, name: str) -> torch.Tensor:
    """Returns a tensor as bytes: NaN equals itself there, and −0 does not equal 0."""
    return weights[name].cpu().contiguous().flatten().view(torch.uint8)


def _is_constant(weights: Weights, name: str) -> bool:
    """Returns whether all values of a tensor are equal."""
    values = weights[name].flatten()
    return bool((values == values[0]).all())


def _proved(
    constant: Sequence[Sequence[str]], vectors: Sequence[DistributionVector]
) -> dict[str, str]:
    """Returns the names with equal tensors of one value that fine-tuning has kept equal."""
    first: dict[str, str] = {}
    for group in constant:
        # One vector after the other divides the group into those that it keeps equal.
        parts: list[list[str]] = [list(group)]
        moved: set[str] = set()
        for vector in vectors:
            # A name that the checkpoint does not store proves nothing.
            stored = [name for name in group if name in vector and vector.source(name) == name]
            parts = [
                piece
                for part in parts
                for piece in _equal_groups(vector.tuned, [name for name in part if name in stored])
            ]
            moved |= {name for name in stored if not _is_constant(vector.tuned, name)}
        for part in parts:
            if moved & set(part):
                ordered = [name for name in group if name in part]
                first |= dict.fromkeys(ordered[1:], ordered[0])
    return first
