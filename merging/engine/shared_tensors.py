"""Finds the tensors that a base stores under several names and that are one parameter of the model.

Such as an LM head beside an equal embedding, or T5's `shared`, `encoder.embed_tokens` and
`decoder.embed_tokens`. A module in memory has one parameter for all of them. So they must be one
tensor to masks, rounding, filters and rules as well; otherwise an export would hold two tensors
that differ where the module has one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from merging.declared_ties import filled_parameters
from merging.inputs.checkpoint import Weights, dtype_of, read_block, shape_of
from merging.inputs.vector import DistributionVector, Vector
from merging.tensor_names import is_buffer, place

PROBE = 2**12
"""Elements that are compared first; they tell nearly all tensors apart."""
_CACHE = "_shared_tensors"

Names = tuple[str, ...]
"""All names of one tensor, in the base's order."""


class _Found(NamedTuple):
    """What a base says of its own equal tensors."""

    declared: list[list[str]]
    """Names that are tied, as transformers or the configuration says."""
    constant: list[list[str]]
    """Names of equal tensors with one repeated value, which nobody knows to be tied."""
    equal: list[list[str]]
    """Names of other equal tensors of a model of which nobody says it."""


def shared_tensors(base: Weights, vectors: Iterable[Vector] = ()) -> dict[str, Names]:
    """Returns the names of the tensors that are stored under several: any of them -> all of them.

    Two names share a tensor if shape, dtype and all values are equal and transformers ties them,
    judging by config.json. In a model that transformers does not know they share it if they are
    outside the numbered layers, and `tie_word_embeddings` in config.json is true, or it is missing
    and no fine-tuned checkpoint has different values under them. If it is false, heads are apart.
    There, tensors of one repeated value, such as new biases and norms, may be equal by chance: they
    share a tensor only if the checkpoints have equal values too, and not one repeated value
    everywhere.

    Args:
        base: Θ. What it says is kept with it, if it is a checkpoint or `in_memory`.
        vectors: those of checkpoints are asked where transformers cannot be.
    """
    found = _found_in(base)
    groups = [list(group) for group in found.declared]
    if found.constant or found.equal:
        proofs = [vector for vector in vectors if isinstance(vector, DistributionVector)]
        for group in found.equal:
            groups += [kept for kept in _kept_equal(group, proofs) if len(kept) > 1]
        for group in found.constant if proofs else ():
            groups += [kept for kept in _moved_alike(group, proofs) if len(kept) > 1]
    return {name: tuple(group) for group in groups for name in group}


def _found_in(base: Weights) -> _Found:
    """Finds equal tensors, and asks transformers which of them are tied; once for each base."""
    # The base's own identity too: a view of it copies its attributes.
    kept = getattr(base, _CACHE, None)
    if kept is not None and kept[0] == id(base):
        known: _Found = kept[1]
        return known
    alike: dict[Any, list[str]] = {}
    for name in base:
        shape, dtype = shape_of(base, name), dtype_of(base, name)
        if dtype.is_floating_point and not is_buffer(name, len(shape)) and 0 not in shape:
            alike.setdefault((shape, dtype), []).append(name)
    groups = [group for names in alike.values() for group in _equal_groups(base, names)]
    found = _sorted_out(base, {tuple(group): _is_constant(base, group[0]) for group in groups})
    if hasattr(base, "__dict__"):
        vars(base)[_CACHE] = (id(base), found)
    return found


def _sorted_out(base: Weights, groups: Mapping[Names, bool]) -> _Found:
    """Divides groups of equal tensors; each group comes with whether it has one repeated value."""
    outside = {group: [name for name in group if place(name).layer is None] for group in groups}
    found = _Found([], [], [])
    # Norms and biases inside the layers are often all ones or zeros: they alone say nothing.
    if not any(not constant or len(outside[group]) > 1 for group, constant in groups.items()):
        return found
    config = getattr(base, "config", {})
    names = [name for group in groups for name in group]
    filled = filled_parameters(config, names, most_layers=len(base))
    tied = _says_tied(config)
    for group, constant in groups.items():
        alike: dict[int, list[str]] = {}
        for name in group:
            if filled is not None and name in filled:
                alike.setdefault(filled[name], []).append(name)
        found.declared.extend(same for same in alike.values() if len(same) > 1)
        # What transformers does not know, names decide. Equal layers were copied.
        rest = outside[group]
        rest = [] if filled is not None and all(name in filled for name in rest) else rest
        parts = [rest]
        if tied is False and not constant:
            heads = [name for name in rest if place(name).part == "head"]
            parts = [[name for name in rest if name not in heads], heads]
        where = found.constant if constant else found.declared if tied else found.equal
        where.extend(part for part in parts if len(part) > 1)
    return found


def _says_tied(config: Mapping[str, Any]) -> bool | None:
    """Returns whether a configuration says that head and embeddings are one parameter, if it does.

    False at one level decides, as in models of several modalities.
    """
    levels = [level for level in (config, config.get("text_config")) if isinstance(level, dict)]
    said = [level["tie_word_embeddings"] for level in levels if "tie_word_embeddings" in level]
    return all(said) if said else None


def _equal_groups(weights: Weights, names: Sequence[str]) -> list[list[str]]:
    """Returns the groups of two or more names whose tensors are equal bit for bit."""
    if len(names) < 2:
        return []
    # By their first bytes, so that whole tensors are read only where they are probably equal.
    probes: dict[bytes, list[str]] = {}
    for name in names:
        probe = _probe(weights, name).cpu().contiguous()
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


def _probe(weights: Weights, name: str) -> torch.Tensor:
    """Returns the first elements of a tensor."""
    return read_block(weights, name, 0, min(math.prod(shape_of(weights, name)), PROBE))


def _bits(weights: Weights, name: str) -> torch.Tensor:
    """Returns a tensor as bytes: NaN equals itself there, and −0 does not equal 0."""
    return weights[name].cpu().contiguous().flatten().view(torch.uint8)


def _is_constant(weights: Weights, name: str) -> bool:
    """Returns whether all values of a tensor are equal."""
    probe = _probe(weights, name)
    return bool((probe == probe[0]).all()) and bool((weights[name] == probe[0]).all())


def _kept_equal(group: Sequence[str], vectors: Sequence[DistributionVector]) -> list[list[str]]:
    """Divides names into those under which each checkpoint has equal values too."""
    parts: list[list[str]] = [list(group)]
    for vector in vectors:
        alike = _alike_in(vector, tuple(group))
        divided: list[list[str]] = []
        for part in parts:
            own = [[name for name in part if name in same] for same in alike]
            # A name that the checkpoint does not store proves nothing: it stays with the first.
            loose = [name for name in part if not any(name in same for same in alike)]
            own = [same for same in own if same] or [[]]
            keep = {*own[0], *loose}
            divided += [[name for name in part if name in keep], *own[1:]]
        parts = divided
    return parts


def _moved_alike(group: Sequence[str], vectors: Sequence[DistributionVector]) -> list[list[str]]:
    """Returns names that every checkpoint stores with equal values, and one with several values."""
    stored = [
        {name for same in _alike_in(vector, tuple(group)) for name in same} for vector in vectors
    ]
    everywhere = [name for name in group if all(name in names for names in stored)]
    return [
        part
        for part in _kept_equal(everywhere, vectors)
        if part and not all(_is_constant(vector.tuned, part[0]) for vector in vectors)
    ]


def _alike_in(vector: DistributionVector, group: Names) -> list[list[str]]:
    """Divides the names that a checkpoint stores by their values; kept with the vector."""
    known: dict[Names, list[list[str]]] = vars(vector).setdefault(_CACHE, {})
    if group not in known:
        stored = [name for name in group if name in vector and vector.source(name) == name]
        same = _equal_groups(vector.tuned, stored)
        single = [[name] for name in stored if not any(name in names for names in same)]
        known[group] = same + single
    return known[group]
