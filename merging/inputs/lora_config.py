"""Reads a PEFT LoRA folder: its configuration, and which tensor of the base each factor changes.

An adapter that is not plain s·B·A is refused with the key that makes it different: a guess would
give a model that looks right and is not.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from merging.dtypes import QUANTISED
from merging.errors import CheckpointError, MismatchError
from merging.inputs.checkpoint import Checkpoint, Weights, dtype_of, shape_of
from merging.inputs.strict_json import read_json
from merging.paths import ADAPTER, WEIGHTS
from plumbing.suggest import listed, nearest

_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(\.weight)?"
)


# Module names, or simple expressions such as layers\.\d+\.q_proj. PEFT takes any regular
# expression, but one from a stranger's file can be made to run for years. That takes groups or
# many repetitions, so this allows no group and at most two repetitions.
_PATTERN = re.compile(r"(?=.{1,200}\Z)(?!(.*[*+]){3})\^?((\w|\\[.d]|[.-])[*+]?)+")


# Keys that add something to s·B·A, and what they add, for the message.
_REFUSED: dict[str, str] = {
    "use_dora": "DoRA rescales each column of the weights",
    "lora_bias": "a trained bias on B is not part of s·B·A",
    "modules_to_save": "whole modules were trained beside the adapter",
    "trainable_token_indices": "single token rows were trained beside the adapter",
    "layer_replication": "layers were copied before training",
    "target_parameters": "parameters were adapted outside linear layers",
    "alora_invocation_tokens": "the adapter switches on inside a sequence",
    "use_qalora": "QALoRA pools its input",
    "use_bdlora": "block-diagonal LoRA stores blocks",
    "arrow_config": "Arrow routes between adapters",
    "kasa_config": "KaSA truncates the base's weights",
    "megatron_config": "its layers were Megatron's, which split their weights over devices",
}


# Values of init_lora_weights that leave the base's weights as they are.
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")


_MERGE_FIRST = (
    "merge it into its base with peft's merge_and_unload and add the result as a full checkpoint."
)


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


def read_adapter(path: Path) -> tuple[dict[str, Any], Checkpoint]:
    """Opens an adapter's folder without a base: its configuration and its factors.

    Raises:
        CheckpointError: if the folder is not a LoRA adapter, or a kind that is not s·B·A.
    """
    config = _config(path)
    if not (path / WEIGHTS).exists() and (path / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{path} holds adapter_model.bin, a pickle that can run code when opened; only "
            f"{WEIGHTS} is read. If you trust the adapter, load it with peft and save it again."
        )
    return config, Checkpoint(path, file=WEIGHTS)


def base_model_of(config: Mapping[str, Any]) -> str:
    """Returns the base that adapter_config.json names: a path or a hub id; empty if none."""
    name = config.get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def _config(path: Path) -> dict[str, Any]:
    """Reads adapter_config.json and refuses every kind of adapter that is not s·B·A."""
    config = read_json(path / ADAPTER)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path / ADAPTER} holds no JSON object.")
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{path} is a {config.get('peft_type')} adapter; only LORA adapters are sums of "
            "low-rank products. Merge it into its base with peft and add the result as a full "
            "checkpoint."
        )
    for key, reason in _REFUSED.items():
        # PEFT writes all of its keys, those that are not used as null or false.
        if config.get(key):
            raise CheckpointError(
                f"{path / ADAPTER}: {key} is set: {reason}. Only plain LoRA and rsLoRA are read; "
                f"{_MERGE_FIRST}"
            )
    if config.get("bias", "none") != "none":
        raise CheckpointError(
            f"{path / ADAPTER}: bias is {config['bias']!r}: biases were trained beside the "
            f"adapter. Only plain LoRA and rsLoRA are read; {_MERGE_FIRST}"
        )
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{path / ADAPTER}: init_lora_weights is {start!r}, which changes the base's weights "
            "before training, so that s·B·A is not the difference from the base. Convert it with "
            "peft's save_pretrained(path_initial_model_for_weight_conversion=...) first."
        )
    return config


def resolve_targets(
    where: str, config: Mapping[str, Any], stored: Checkpoint, base: Weights
) -> dict[str, Target]:
    """Finds the factors and the scale of each tensor of the base that an adapter changes.

    Args:
        where: the adapter's name and folder, for messages.
        config: its adapter_config.json.
        stored: its factors.
        base: Θ; only names, shapes and dtypes are read.

    Returns:
        the base's tensor name -> its target, in the base's order.

    Raises:
        CheckpointError: if the file holds anything but pairs of factors.
        MismatchError: if a pair does not fit the base.
    """
    pairs: dict[tuple[str, bool], dict[str, str]] = {}
    strange = []
    for key in stored:
        match = _KEY.fullmatch(key)
        if match is None:
            strange.append(key)
        else:
            pairs.setdefault((match["module"], bool(match["kind"])), {})[match["side"]] = key
    if strange or not pairs:
        wrong = (
            f"{listed(strange)} is not a factor A or B of a LoRA product."
            if strange
            else "it has no factors A and B."
        )
        raise CheckpointError(
            f"{where}: {wrong} Merge the adapter into its base with peft's merge_and_unload and "
            "add the result as a full checkpoint."
        )
    targets: dict[str, Target] = {}
    linear: list[str] = []  # embeddings are always transposed, so they say nothing of the others
    for (module, embedding), sides in pairs.items():
        if set(sides) != {"A", "B"}:
            raise CheckpointError(
                f"{where}: {module} has only {' '.join(sides.values())}; its other factor is "
                "missing."
            )
        name = _base_name(where, module, base)
        if name in targets:
            raise CheckpointError(f"{where}: two adapted modules mean the base's {name!r}.")
        stored_as = dtype_of(base, name)
        if not stored_as.is_floating_point or stored_as in QUANTISED:
            raise MismatchError(
                f"{where}: the base holds {name!r} as {str(stored_as).removeprefix('torch.')}: "
                "quantised weights cannot be merged. Give the full-precision model as the base."
            )
        targets[name] = _target(
            where, config, (module, embedding), sides, (name, shape_of(base, name)), stored
        )
        linear += [] if embedding else [name]
    _check_orientation(
        where, {name: (shape_of(base, name), targets[name].transposed) for name in linear}
    )
    return {name: targets[name] for name in base if name in targets}


def _check_orientation(where: str, linear: Mapping[str, tuple[tuple[int, ...], bool]]) -> None:
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


def _base_name(where: str, module: str, base: Weights) -> str:
    """Returns the base's name of a module's weight: the same name, but for a prefix.

    Base and adapter may have been saved from different heads, so one of the two names may have a
    prefix such as `model.` that the other lacks.
    """
    wanted = f"{module}.weight"
    if wanted in base:
        return wanted
    near = [name for name in base if wanted.endswith(f".{name}") or name.endswith(f".{wanted}")]
    if len(near) == 1:
        return near[0]
    raise MismatchError(
        f"{where}: it adapts {module!r}, and the base has no tensor {wanted!r}; "
        f"{nearest(wanted, list(base))} It was trained on another base, or the base stores these "
        "weights in another form (tied or fused)."
    )


def _target(
    where: str,
    config: Mapping[str, Any],
    module: tuple[str, bool],
    sides: dict[str, str],
    base: tuple[str, tuple[int, ...]],
    stored: Checkpoint,
) -> Target:
    """Checks the shapes and dtypes of one pair of factors against the base's tensor.

    Args:
        where: the adapter's name and folder, for messages.
        config: its adapter_config.json.
        module: the module's path, and whether it is an embedding.
        sides: 'A' and 'B' -> the factor's name in the file.
        base: name and shape of the base's tensor.
        stored: the factors.
    """
    (path, embedding), (name, shape) = module, base
    a, b = stored.info(sides["A"]), stored.info(sides["B"])
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise CheckpointError(
            f"{where}: {path}: A is {list(a.shape)} and B is {list(b.shape)}; the product B·A "
            "does not exist."
        )
    if not (a.dtype.is_floating_point and b.dtype.is_floating_point) or {a.dtype, b.dtype} & set(
        QUANTISED
    ):
        raise CheckpointError(
            f"{where}: {sides['A']} is stored as {a.dtype}, {sides['B']} as {b.dtype}; quantised "
            "adapters cannot be merged."
        )
    product = (b.shape[0], a.shape[1])
    if shape not in (product, product[::-1]):
        raise MismatchError(
            f"{where}: B·A of {path} has shape {list(product)}, and the base's {name!r} has "
            f"{list(shape)}. The adapter was trained on another base."
        )
    # GPT-2's Conv1D stores (in, out), and an embedding stores (tokens, width): both get the
    # transposed product. Shapes tell which, except for square matrices.
    square = product == product[::-1]
    transposed = (embedding or bool(config.get("fan_in_fan_out"))) if square else product != shape
    return Target(sides["A"], sides["B"], _scale(where, config, path, a.shape[0]), transposed)


def _scale(where: str, config: Mapping[str, Any], module: str, rank: int) -> float:
    """Returns alpha/r, or alpha/√r with rsLoRA.

    As in PEFT, alpha is that of the first alpha_pattern that matches the end of the module's path,
    else lora_alpha.
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
