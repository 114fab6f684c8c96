"""Reads a PEFT LoRA file from its tensor names, shapes and dtypes: no tensor is read.

Which tensor of the base a module's factors change, merging.inputs.lora_config finds.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from merging.dtypes import QUANTISED
from merging.errors import CheckpointError, MismatchError
from merging.paths import ADAPTER
from plumbing.suggest import listed

PREFIX = "base_model.model."
"""The beginning of every tensor name that PEFT writes."""

# PEFT leaves the adapter's name out when it saves. Files that a trainer saved from the state of the
# module have it: lora_A.default.weight.
_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])"
    r"(\.(?P<adapter>(?!weight\Z)[^.]+))?(\.weight)?"
)

# The base's own weights beside an adapter's factors, such as lm_head.base_layer.weight. PEFT saves
# them if embeddings are adapted, or if they were resized (save_embedding_layers="auto").
_COPY = re.compile(r"(?P<module>.+?)(\.base_layer)?\.(?P<end>weight|bias)")

# Module names, or simple expressions such as layers\.\d+\.q_proj. PEFT takes any regular
# expression, but one from a stranger's file can be made to run for years. That takes groups or
# many repetitions, so this allows no group and at most two repetitions.
_PATTERN = re.compile(r"(?=.{1,200}\Z)(?!(.*[*+]){3})\^?((\w|\\[.d]|[.-])[*+]?)+")


class Adapted(NamedTuple):
    """A module that an adapter changes."""

    module: str
    """Its path, without PEFT's prefix."""
    embedding: bool


class Target(NamedTuple):
    """The two factors in an adapter's file that change one tensor of the base."""

    a: str
    """The name of A in the file; its shape is (rank, in)."""
    b: str
    """The name of B in the file; its shape is (out, rank)."""
    scale: float
    transposed: bool
    """Whether the base's tensor is (in, out) and gets (B·A)ᵀ.

    GPT-2's Conv1D and every embedding are stored so.
    """

    @property
    def on_embedding(self) -> bool:
        """Whether the adapted module is an embedding."""
        return ".lora_embedding_" in self.a


class Keys(NamedTuple):
    """The tensors of an adapter's file."""

    factors: dict[Adapted, dict[str, str]]
    """Module -> 'A' and 'B' -> the factor's name in the file."""
    copies: dict[str, str]
    """Name of a tensor of the base -> the name of its copy in the file."""


def read_keys(where: str, names: Iterable[str]) -> Keys:
    """Sorts the tensor names of an adapter's file.

    Args:
        where: the adapter, for messages.
        names: the names in the file.

    Raises:
        CheckpointError: if a name is no factor and no copy, a module has one factor only, or there
            are factors of several adapters.
    """
    keys = Keys({}, {})
    adapters: dict[str, str] = {}
    strange = []
    for key in names:
        name = key.removeprefix(PREFIX)
        if match := _FACTOR.fullmatch(name):
            adapted = Adapted(match["module"], bool(match["kind"]))
            adapters.setdefault(match["adapter"] or "", key)
            keys.factors.setdefault(adapted, {})[match["side"]] = key
        elif ".lora_" not in name and (match := _COPY.fullmatch(name)):
            keys.copies[f"{match['module']}.{match['end']}"] = key
        else:
            strange.append(key)
    if len(adapters) > 1:
        raise CheckpointError(
            f"{where} holds factors of several adapters, such as {listed(list(adapters.values()))}."
            " Save them one by one with peft's save_pretrained(selected_adapters=[…])."
        )
    if strange or not keys.factors:
        wrong = (
            f"{listed(strange)} is not a factor A or B of a LoRA product."
            if strange
            else "it has no factors A and B."
        )
        raise CheckpointError(
            f"{where}: {wrong} Merge the adapter into its base with peft's merge_and_unload and "
            "add the result as a full checkpoint."
        )
    for adapted, sides in keys.factors.items():
        if set(sides) != {"A", "B"}:
            raise CheckpointError(
                f"{where}: {adapted.module} has only {' '.join(sides.values())}; its other factor "
                "is missing."
            )
    return keys


def target_of(
    where: str,
    config: Mapping[str, Any],
    adapted: Adapted,
    sides: Mapping[str, tuple[str, tuple[int, ...], torch.dtype]],
    base: tuple[str, tuple[int, ...]],
) -> Target:
    """Checks the shapes and dtypes of one pair of factors against the base's tensor.

    Args:
        where: the adapter, for messages.
        config: its adapter_config.json.
        adapted: the module.
        sides: 'A' and 'B' -> name in the file, shape and dtype.
        base: name and shape of the base's tensor.

    Raises:
        CheckpointError: if the two factors have no product, or are quantised.
        MismatchError: if the product has not the tensor's shape.
    """
    (a_key, a, a_dtype), (b_key, b, b_dtype), (name, shape) = sides["A"], sides["B"], base
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise CheckpointError(
            f"{where}: {adapted.module}: A is {list(a)} and B is {list(b)}; the product B·A does "
            "not exist."
        )
    if {a_dtype, b_dtype} & set(QUANTISED) or not (
        a_dtype.is_floating_point and b_dtype.is_floating_point
    ):
        raise CheckpointError(
            f"{where}: {a_key} is stored as {a_dtype}, {b_key} as {b_dtype}; quantised adapters "
            "cannot be merged."
        )
    product = (b[0], a[1])
    if shape not in (product, product[::-1]):
        raise MismatchError(
            f"{where}: B·A of {adapted.module} has shape {list(product)}, and the base's {name!r} "
            f"has {list(shape)}. The adapter was trained on another base."
        )
    # GPT-2's Conv1D stores (in, out), and an embedding stores (tokens, width): both get the
    # transposed product. Shapes tell which, except for square matrices.
    square, flag = product == product[::-1], bool(config.get("fan_in_fan_out"))
    transposed = (adapted.embedding or flag) if square else product != shape
    return Target(a_key, b_key, scale_of(where, config, adapted.module, a[0]), transposed)


def check_orientation(where: str, linear: Mapping[str, tuple[tuple[int, ...], bool]]) -> None:
    """Refuses square matrices if the other matrices show both orientations.

    The shapes of a square matrix fit both ways, so only the flag fan_in_fan_out tells; and here
    the flag is wrong for some matrices.

    Args:
        where: the adapter's name and folder, for the message.
        linear: the base's tensor name -> its shape, and whether the product is transposed.
    """
    square = [name for name, (shape, _) in linear.items() if shape[0] == shape[1]]
    ways = {transposed for _, transposed in linear.values()}
    if square and len(ways) > 1:
        raise MismatchError(
            f"{where}: some of its matrices are stored transposed and others are not ({ADAPTER}: "
            f"fan_in_fan_out fits only some), so that the orientation of {listed(square, 3)}, "
            "which are square, is unknown. Merge the adapter into its base with peft's "
            "merge_and_unload and add the result as a full checkpoint."
        )


def scale_of(where: str, config: Mapping[str, Any], module: str, rank: int) -> float:
    """Returns alpha/r, or alpha/√r with rsLoRA.

    As in PEFT, alpha is that of the first alpha_pattern that matches the end of the module's path,
    else lora_alpha.

    Args:
        where: the adapter, for messages.
        config: its adapter_config.json.
        module: the module's path, as the adapter has it.
        rank: the rank of the module's factors.

    Raises:
        CheckpointError: if alpha is no finite number, or a pattern no module name.
    """
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    if not (
        isinstance(patterns, dict) and all(_PATTERN.fullmatch(pattern) for pattern in patterns)
    ):
        raise CheckpointError(
            f"{where}: {ADAPTER}: alpha_pattern is {str(patterns)[:200]}, expected module names."
        )
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    # A bound, because isfinite raises for a whole number that no float can hold.
    if not (isinstance(alpha, int | float) and abs(alpha) < 1e30 and rank > 0):
        raise CheckpointError(
            f"{where}: {ADAPTER}: lora_alpha is {str(alpha)[:80]}, expected a finite number."
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
