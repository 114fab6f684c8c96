"""Compares how two checkpoints store their tensors: dtypes, and what is kept from the base.

Whole numbers and constants of the code are no weights, so a merge takes them from the base; see
merging.tensor_names.is_buffer. Where the fine-tune's differ, the user is told: a tensor with such a
name may have been trained after all.
"""

import math

import torch
from torch import Tensor

from merging.engine.shared_tensors import shared_tensors
from merging.inputs.checkpoint import Checkpoint, dtype_of, read_block, shape_of
from merging.inputs.vector import Vector
from merging.preflight.problem import Problem
from merging.tensor_names import is_buffer
from plumbing.suggest import listed

_MOST = 2**22
"""Elements of a tensor that are compared, from its first one: a causal mask of 2048 tokens."""


def dtypes(base: Checkpoint, name: str, tuned: Checkpoint) -> list[Problem]:
    """Returns a note if two checkpoints store their weights in other dtypes."""
    ours, theirs = _floats(base), _floats(tuned)
    if ours == theirs:
        return []
    wide = "float64" if "float64" in ours else "float32"
    message = (
        f"{name} is stored as {' and '.join(theirs) or 'no floats'}, the base as "
        f"{' and '.join(ours) or 'no floats'}: merged in {wide} and stored as the base is, unless "
        "the recipe's dtype says otherwise."
    )
    return [Problem("info", name, message)]


def kept_tensors(base: Checkpoint, name: str, tuned: Checkpoint) -> list[Problem]:
    """Returns the tensors that a merge keeps from the base although a checkpoint's differ.

    A warning for numbers that could have been trained, and a note for whole numbers.

    Args:
        base: Θ.
        name: the name of the checkpoint's vector.
        tuned: the checkpoint.
    """
    trained: list[str] = []
    counted: list[str] = []
    for tensor in base:
        floating = dtype_of(base, tensor).is_floating_point
        buffer = is_buffer(tensor, len(shape_of(base, tensor)))
        if tensor in tuned and (buffer or not floating) and not _equal(base, tuned, tensor):
            (trained if floating else counted).append(tensor)
    problems = []
    if trained:
        message = (
            f"{name}: {listed(trained)} differ from the base's and are not merged, because they "
            "have the names of constants of the code: the export has the base's."
        )
        fix = "If they were trained, the merge lacks what they learnt."
        problems.append(Problem("warning", name, message, fix))
    if counted:
        message = (
            f"{name}: {listed(counted)} hold whole numbers that differ from the base's; whole "
            "numbers are not merged, and the export has the base's."
        )
        problems.append(Problem("info", name, message))
    return problems


def _equal(base: Checkpoint, tuned: Checkpoint, name: str) -> bool:
    """Returns whether two tensors agree, but for rounding and for how their dtypes write a mask."""
    if shape_of(base, name) != shape_of(tuned, name):
        return False
    size = min(math.prod(shape_of(base, name)), _MOST)
    ours, theirs = read_block(base, name, 0, size), read_block(tuned, name, 0, size)
    if not (ours.is_floating_point() or theirs.is_floating_point()):
        return torch.equal(ours.long(), theirs.long())
    step = max(_step(ours), _step(theirs))
    # The largest number of a narrow dtype stands for that of a wide one, as masks have it.
    most = min(_largest(ours), _largest(theirs))
    one, other = (values.double().clamp(-most, most) for values in (ours, theirs))
    return torch.allclose(one, other, rtol=4 * step, atol=0.0, equal_nan=True)


def _step(values: Tensor) -> float:
    """Returns the relative distance of neighbouring numbers in a dtype; 0 for whole numbers."""
    return torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0


def _largest(values: Tensor) -> float:
    """Returns the largest finite number of a dtype; infinity for whole numbers."""
    return torch.finfo(values.dtype).max if values.is_floating_point() else math.inf


def untied_tensors(base: Checkpoint, vector: Vector, tuned: Checkpoint) -> list[Problem]:
    """Returns a warning for tensors that the base ties and a checkpoint has trained apart.

    Args:
        base: Θ, which stores the tied tensor under several names.
        vector: the checkpoint's vector.
        tuned: the checkpoint.
    """
    apart = [
        f"{other} (of {names[0]})"
        for other, names in shared_tensors(base, [vector]).items()
        if other != names[0]
        and other in tuned
        and names[0] in tuned
        and not _alike(tuned, names[0], other)
    ]
    if not apart:
        return []
    message = (
        f"{vector.name}: {listed(apart)} differ in it, and are one tensor in the base. What it "
        "learnt under the first name is merged, for both."
    )
    fix = "To merge both, save the base with an untied head (tie_word_embeddings: false)."
    return [Problem("warning", vector.name, message, fix)]


def _alike(weights: Checkpoint, one: str, other: str) -> bool:
    """Returns whether two tensors of one checkpoint are equal, as far as they are compared."""
    shape = shape_of(weights, one)
    size = min(math.prod(shape), _MOST)
    return shape == shape_of(weights, other) and torch.equal(
        read_block(weights, one, 0, size), read_block(weights, other, 0, size)
    )


def _floats(weights: Checkpoint) -> list[str]:
    """Returns the names of the floating-point dtypes in a checkpoint."""
    dtypes: set[torch.dtype] = {weights.info(name).dtype for name in weights}
    return sorted(str(dtype).removeprefix("torch.") for dtype in dtypes if dtype.is_floating_point)
