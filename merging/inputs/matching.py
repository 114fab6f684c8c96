"""Finds for each tensor of the base the tensor of a fine-tuned checkpoint that it became.

Three things may differ between two folders of one model: names, if another version or class of
transformers wrote them (merging.renaming); tied tensors, which one folder stores and the other
leaves out; and constants of the code. Anything else is refused, with the names.
"""

import math
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from merging.dtypes import QUANTISED
from merging.errors import MismatchError
from merging.inputs.checkpoint import Checkpoint, Weights, dtype_of, read_block, shape_of
from merging.inputs.digest import DigestTree
from merging.inputs.weight_files import only_in
from merging.renaming import TwoRenamings, find_renaming
from merging.tensor_names import is_buffer, natural_key, place
from merging.unmatched import Unmatched, explain


class Renamed(Checkpoint):
    """A view of a checkpoint under the tensor names of another one.

    Args:
        own: the checkpoint as it is on disk.
        names: its name -> the name in the view, for those that differ.
        renaming: says what was renamed, for the user.
    """

    def __init__(self, own: Checkpoint, names: Mapping[str, str], renaming: str) -> None:
        # Its open state, but not what it has cached: see the properties below.
        vars(self).update(
            {key: value for key, value in vars(own).items() if key not in _CACHED_PROPERTIES}
        )
        self.own, self.renaming = own, renaming
        self._own_names = {new: name for name, new in names.items()}
        infos = {names.get(name, name): info for name, info in own._infos.items()}
        self._infos = {name: infos[name] for name in sorted(infos, key=natural_key)}

    def gather_digest(self) -> None:
        """Hashes what is read from now on for the checkpoint's digest."""
        self.own.gather_digest()

    def _tree_of(self, name: str) -> tuple[DigestTree, str]:
        return self.own._tree_of(self._own_names.get(name, name))

    @cached_property
    def digest(self) -> str:
        """The checkpoint's: the view has the same weights, and names its folder."""
        return self.own.digest

    @cached_property
    def sampled_digest(self) -> str:
        """The checkpoint's; see Checkpoint.sampled_digest."""
        return self.own.sampled_digest

    @cached_property
    def identity(self) -> str:
        """The checkpoint's; see Checkpoint.identity."""
        return self.own.identity


_CACHED_PROPERTIES = ("digest", "sampled_digest", "identity")


class _RenamedInMemory(dict[str, Tensor]):
    """Weights in memory under other names; `renaming` as in Renamed."""

    def __init__(self, tensors: Weights, renaming: str) -> None:
        super().__init__(tensors)
        self.renaming = renaming


def renamed(where: str, tuned: Weights, base: Weights, *, whole: bool = True) -> Weights:
    """Returns weights under the base's tensor names, if one renaming gives them these names.

    `renaming` of the result tells what was renamed, if it is a view. Weights with the base's names
    are returned as they are, and so are those for which no renaming is found: match_names says how
    they differ.

    Args:
        where: what `tuned` is, for messages.
        tuned: the other weights.
        base: Θ.
        whole: whether `tuned` holds a whole model, not only some of its tensors.

    Raises:
        MismatchError: if more than one renaming fits.
    """
    found = find_renaming(
        _weights_of(tuned, base),
        _weights_of(base, tuned),
        lambda theirs, ours: same_place(ours, shape_of(base, ours), shape_of(tuned, theirs)),
        config=getattr(base, "config", {}),
        whole=whole,
    )
    if isinstance(found, TwoRenamings):
        raise MismatchError(two_renamings(where, found))
    if found is None:
        return tuned
    if isinstance(tuned, Checkpoint):
        return Renamed(tuned, found.names, found.text)
    return _RenamedInMemory(
        {found.names.get(name, name): tuned[name] for name in tuned}, found.text
    )


def two_renamings(where: str, found: TwoRenamings) -> str:
    """Returns the message for names that fit the base's in two ways."""
    return (
        f"{where}: its tensors have other names than the base's, and they fit by {found.first} as "
        f"well as by {found.second}. Rename them, so that base and checkpoint agree."
    )


def _weights_of(weights: Weights, other: Weights) -> list[str]:
    """Returns the names of the tensors of which `other` must have a counterpart.

    They are no constants of the code, and in no sub-folder of which `other` has nothing.
    """
    return [
        name
        for name in weights
        if not is_buffer(name, len(shape_of(weights, name))) and not only_in(name, weights, other)
    ]


def same_place(name: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    """Returns whether two shapes agree; token tables may have different numbers of rows."""
    if ours == theirs:
        return True
    table = place(name).layer is None and place(name).part in ("embeddings", "head")
    return table and bool(ours) and ours[1:] == theirs[1:]


def match_names(vector: str, base: Weights, tuned: Weights) -> dict[str, str]:
    """Returns for each tensor that the vector can change the name that it has in `tuned`.

    Args:
        vector: the vector's name.
        base: Θ.
        tuned: Θ_i, renamed if that was possible.

    Raises:
        MismatchError: if names, shapes or dtypes do not fit.
    """
    where = f"{vector} ({tuned.path})" if isinstance(tuned, Checkpoint) else vector
    changeable = [
        name for name in base if _changeable(base, name) and not only_in(name, base, tuned)
    ]
    source = {name: name for name in changeable if name in tuned}
    lacking = [name for name in changeable if name not in tuned]
    having = [name for name in _weights_of(tuned, base) if name not in base]
    _check_shapes(where, base, tuned, source)
    # A tied head may be stored in one of the two models and left out in the other. That is fine if
    # the stored one has a twin: another tensor with exactly the same values.
    unresolved = []
    for name in lacking:
        twin = _twin(base, name, list(source))
        if twin is None:
            unresolved.append(name)
        else:
            source[name] = twin
    untied = [name for name in having if _twin(tuned, name, list(source)) is None]
    if unresolved or untied:
        missing, extra = (
            {name: Unmatched(shape_of(weights, name), _is_table(weights, name)) for name in names}
            for weights, names in ((base, unresolved), (tuned, untied))
        )
        note = getattr(tuned, "renaming", "")
        raise MismatchError(explain(where, len(source), missing, extra, note))
    return {name: source[name] for name in changeable}


def _changeable(base: Weights, name: str) -> bool:
    """Returns whether a tensor of the base is a weight: floating-point, and not a constant."""
    dtype = dtype_of(base, name)
    if dtype in QUANTISED:
        raise MismatchError(
            f"the base holds {name!r} in {dtype}: quantised weights cannot be merged. Give the "
            "full-precision model."
        )
    return dtype.is_floating_point and not is_buffer(name, len(shape_of(base, name)))


def _check_shapes(where: str, base: Weights, tuned: Weights, source: Mapping[str, str]) -> None:
    """Raises an error for the first tensor whose shape or dtype does not fit the base's."""
    for name in source:
        shape, expected = shape_of(tuned, name), shape_of(base, name)
        if shape != expected:
            hint = (
                "The vocabularies differ: fine-tuning added tokens, or the checkpoint has another "
                "tokenizer. Set dem.vocabulary in the recipe (base or union), or first resize the "
                "checkpoint's embeddings to the base's."
                if shape[1:] == expected[1:] and place(name).part in ("embeddings", "head")
                else "It is not a fine-tune of this base. Choose the base that it was trained from."
            )
            raise MismatchError(
                f"{where}: tensor {name!r} has shape {_format_shape(shape)}, the base has "
                f"{_format_shape(expected)}. {hint}"
            )
        dtype = dtype_of(tuned, name)
        if dtype in QUANTISED or not dtype.is_floating_point:
            raise MismatchError(
                f"{where}: tensor {name!r} is stored as {str(dtype).removeprefix('torch.')}, the "
                f"base as {str(dtype_of(base, name)).removeprefix('torch.')}: quantised weights "
                "cannot be merged. Give the full-precision checkpoint."
            )


def _twin(weights: Weights, name: str, candidates: list[str]) -> str | None:
    """Returns a candidate with exactly the same values: the other end of a tie. None if none.

    One-dimensional and constant tensors do not count: biases that are all zero and norms that are
    all one are equal without a tie. Called only if a name is missing, since it reads weights.
    """
    shape, dtype = shape_of(weights, name), dtype_of(weights, name)
    if len(shape) < 2:
        return None
    # A few thousand elements rule out nearly all candidates before a whole matrix is read.
    probe = read_block(weights, name, 0, min(math.prod(shape), 2**12))
    for other in candidates:
        if (
            other in weights
            and (shape_of(weights, other), dtype_of(weights, other)) == (shape, dtype)
            and torch.equal(probe, read_block(weights, other, 0, len(probe)))
            and torch.equal(whole := weights[name], weights[other])
            and (whole != whole.flatten()[0]).any()
        ):
            return other
    return None


def _is_table(weights: Weights, name: str) -> bool:
    """Returns whether a tensor has a row per token: the shape of an embedding beside it."""
    shape = shape_of(weights, name)
    return len(shape) == 2 and any(
        shape_of(weights, other) == shape and place(other).part == "embeddings"
        for other in weights
        if other != name or place(name).part == "embeddings"
    )


def _format_shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if shape else "scalar"
