"""Reads a PEFT LoRA folder: its configuration, and which tensor of the base each factor changes.

An adapter that is not plain s·B·A is refused with the key that makes it different: a guess would
give a model that looks right and is not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from merging.adapter_keys import (
    Keys,
    Target,
    check_orientation,
    read_keys,
    target_of,
)
from merging.adapter_ties import resolve_heads
from merging.dtypes import QUANTISED
from merging.errors import CheckpointError, MismatchError
from merging.inputs.checkpoint import Checkpoint, Weights, dtype_of, shape_of
from merging.inputs.matching import same_place, two_renamings
from merging.inputs.strict_json import read_json
from merging.paths import ADAPTER, WEIGHTS
from merging.renaming import TwoRenamings, find_renaming
from merging.tensor_names import place
from plumbing.suggest import listed, nearest

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


# PEFT's other keys, up to its version 0.21: those that are read here, and those that only say what
# was trained, how training began or how it was carried out.
_KNOWN = (
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora",
    "fan_in_fan_out", "bias", "init_lora_weights", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "ensure_weight_tying", "lora_dropout",
    "runtime_config", "merge_weights", "megatron_core", "qalora_group_size", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "velora_config", "monteclora_config",
)  # fmt: skip


# Values of init_lora_weights that leave the base's weights as they are.
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")


_MERGE_FIRST = (
    "merge it into its base with peft's merge_and_unload and add the result as a full checkpoint."
)


class Resolved(NamedTuple):
    """The tensors of an adapter's file, under the base's names."""

    targets: dict[str, Target]
    """The base's tensor -> the factors that change it, in the base's order."""
    copies: dict[str, str]
    """Name in the file of a copy of one of the base's tensors -> the base's name of it."""
    notes: tuple[str, ...]
    """What the user should know."""


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
    for key, value in config.items():
        if value and key not in _KNOWN:
            hint = nearest(key, [*_KNOWN, *_REFUSED])
            raise CheckpointError(
                f"{path / ADAPTER}: {key} is {str(value)[:80]!r}, and no such key of PEFT's LoRA "
                f"is known here{'; ' + hint if hint.startswith('did') else '.'} It may add "
                "something to s·B·A. If it does not, set it to null; if it does, "
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
) -> Resolved:
    """Finds the factors and the scale of each tensor of the base that an adapter changes.

    Args:
        where: the adapter's name and folder, for messages.
        config: its adapter_config.json.
        stored: its factors.
        base: Θ; only names, shapes and dtypes are read.

    Raises:
        CheckpointError: if the file holds anything but pairs of factors and copies of the base.
        MismatchError: if a pair does not fit the base.
    """
    keys = read_keys(where, stored)
    names, notes = _base_names(where, keys, stored, base)
    targets: dict[str, Target] = {}
    linear: list[str] = []  # embeddings are always transposed, so they say nothing of the others
    for adapted, sides in keys.factors.items():
        name = names[f"{adapted.module}.weight"]
        if name in targets:
            raise CheckpointError(f"{where}: two adapted modules mean the base's {name!r}.")
        dtype = dtype_of(base, name)
        if not dtype.is_floating_point or dtype in QUANTISED:
            raise MismatchError(
                f"{where}: the base holds {name!r} as {str(dtype).removeprefix('torch.')}: "
                "quantised weights cannot be merged. Give the full-precision model as the base."
            )
        pair = {s: (key, shape_of(stored, key), dtype_of(stored, key)) for s, key in sides.items()}
        targets[name] = target_of(where, config, adapted, pair, (name, shape_of(base, name)))
        linear += [] if adapted.embedding else [name]
    check_orientation(
        where, {name: (shape_of(base, name), targets[name].transposed) for name in linear}
    )
    return Resolved(
        {name: targets[name] for name in base if name in targets},
        {key: names[name] for name, key in keys.copies.items()},
        tuple(notes),
    )


def _base_names(
    where: str, keys: Keys, stored: Checkpoint, base: Weights
) -> tuple[dict[str, str], list[str]]:
    """Finds the base's name of each tensor that an adapter's file changes or copies.

    Base and adapter may have been written by other classes or versions, so a renaming is applied if
    it is the only one; see merging.renaming. The factors of tied heads that are not needed are
    removed from `keys`.

    Returns:
        name after the adapter's modules -> the base's name; and what the user should know.
    """
    products = {
        f"{adapted.module}.weight": shape_of(stored, pair["B"])[:1]
        + shape_of(stored, pair["A"])[1:]
        for adapted, pair in keys.factors.items()
    }
    wanted = {name: shape_of(stored, key) for name, key in keys.copies.items()} | products

    def fits(theirs: str, ours: str) -> bool:
        shape, expected = wanted[theirs], shape_of(base, ours)
        return shape[::-1] == expected or same_place(ours, expected, shape)

    config = getattr(base, "config", {})
    renaming = find_renaming(wanted, base, fits, config=config, whole=False)
    if isinstance(renaming, TwoRenamings):
        raise MismatchError(two_renamings(where, renaming))
    names = {name: name for name in wanted if name in base}
    notes = []
    if renaming is not None:
        names |= renaming.names
        notes.append(f"its modules were matched to the base's by renaming: {renaming.text}.")
    # The token embeddings that the base may tie its head to.
    tables = {
        name: shape_of(base, name)
        for name in base
        if place(name)[1:] == (None, "embeddings") and name.endswith(".weight")
    }
    tied, told = resolve_heads(where, keys, names, (wanted, tables), (stored, config))
    names |= tied
    notes += told
    for name in [name for name in wanted if name not in names]:
        if near := [n for n in names.values() if f".{n}".endswith(f".{name}")]:
            raise CheckpointError(f"{where}: two adapted modules mean the base's {near[0]!r}.")
        raise MismatchError(_not_found(where, name, keys, base))
    if keys.copies:
        copied = listed(list(dict.fromkeys(names[name] for name in keys.copies)))
        notes.append(f"its file has a copy of the base's {copied}, equal to it and not needed.")
    return names, notes


def _not_found(where: str, name: str, keys: Keys, base: Weights) -> str:
    """Returns the message for a tensor of an adapter that the base does not have."""
    copy = keys.copies.get(name)
    what = f"holds {copy}" if copy else f"adapts {name.removesuffix('.weight')!r}"
    return (
        f"{where}: it {what}, and the base has no tensor {name!r}; {nearest(name, list(base))} It "
        "was trained on another base, or the base stores these weights in another form (fused or "
        "split)."
    )
