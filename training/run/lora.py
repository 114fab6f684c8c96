"""Puts LoRA adapters on a model, new or continued; the only entry to peft."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import CheckpointError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.lora_config import base_model_of, read_adapter
from training.adapter import Lora
from training.errors import TrainingError
from training.run import record as facts
from training.stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter that PEFT writes."""

PREFIX = "base_model.model."
"""The beginning of every tensor name in WEIGHTS."""

NEUTRAL = (
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version",
    "revision", "task_type", "target_modules",
)  # fmt: skip
"""PEFT's settings that may differ when an adapter is continued.

The targets may differ in writing only; `set_adapter` compares them by the names of their tensors.
"""

PLAIN_STARTS = (True, False, "gaussian")
"""Values of init_lora_weights that leave the base unchanged; others, such as PiSSA, change it."""


def add_adapter(model: Any, lora: Lora) -> None:
    """Puts a new adapter on the model and freezes everything else.

    A begins as random numbers and B as zeros, so the model computes the same as before.

    Raises:
        TrainingError: a target matches no module of the model.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import cast_adapter_dtype
    from transformers.pytorch_utils import Conv1D

    names = [name for name, _ in model.named_modules() if name]
    # PEFT raises only if no target matches at all, so a misspelt one among others would go
    # unnoticed.
    for target in lora.targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            ends = sorted(
                {name.rsplit(".", 1)[-1] for name in names}
                - {str(number) for number in range(1000)}
            )
            raise TrainingError(
                f'LoRA target "{target}" matches no module. Modules end in: {", ".join(ends)}.'
            )
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=2 * lora.rank if lora.alpha is None else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
        use_rslora=lora.rslora,
        # Said for the base's own layers: in 4 bits, those of a GPT-2 have been replaced.
        fan_in_fan_out=any(
            issubclass(getattr(module, "source_cls", type(module)), Conv1D)
            for module in model.modules()
        ),
        task_type="CAUSAL_LM",
    )
    # Not get_peft_model: that of peft 0.21 reads a property that transformers 5.23 warns about.
    model.add_adapter(settings)
    # On a base in bfloat16, A and B are in bfloat16 too, in which small steps of AdamW are lost.
    cast_adapter_dtype(model, "default")


def adapter_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Lists the settings in which two adapters differ; empty if one can continue the other.

    Args:
        before: fields of the first Lora by name; a field that is left out has its default.
        now: fields of the second Lora. Its dropout may differ.

    >>> adapter_differences({"rank": 8}, {"rank": 8, "alpha": 4.0})
    'alpha was 16, is 4'
    """
    pairs = zip(_fixed_settings(before).items(), _fixed_settings(now).values(), strict=True)
    return "; ".join(f"{name} was {old}, is {new}" for (name, old), new in pairs if old != new)


def _fixed_settings(lora: Mapping[str, Any]) -> dict[str, str]:
    """Returns the settings that must stay the same, as text and with defaults filled in."""
    alpha = lora.get("alpha")
    return {
        "rank": str(lora["rank"]),
        "alpha": f"{2 * lora['rank'] if alpha is None else alpha:g}",
        "targets": ", ".join(sorted(lora.get("targets", ()))) or "every linear layer",
        "rslora": "on" if lora.get("rslora") else "off",
    }


def check_start(folder: Path, stage: Stage) -> None:
    """Checks that a folder holds an adapter on the stage's base, without loading the model.

    training.json names the base by its identity. An adapter without this file, such as one that
    PEFT wrote, is checked by the name of its base.

    Raises:
        TrainingError: the folder holds no adapter, or an adapter on another base.
    """
    config, _ = _open(folder)
    advice = "Give the base that it was trained on, or leave adapter out."
    record = folder / facts.NAME
    if record.is_file():
        # By the identity of the weights, because a folder may have been moved, or trained again.
        trained_on = json.loads(record.read_text("utf-8"))["base"]
        identity = facts.identity_like(stage.base, trained_on["identity"])
        if trained_on["identity"] != identity:
            raise TrainingError(
                f"adapter {folder}: was trained on {trained_on['name']}, "
                f"weights {trained_on['identity'][:12]}…, and this stage's base {stage.base} "
                f"has weights {identity[:12]}…. {advice}"
            )
        return
    name = base_model_of(config) or None
    if name and (Path(name) / "config.json").is_file():
        if facts.identity(Path(name)) != facts.identity(stage.base):
            raise TrainingError(
                f"adapter {folder}: its base {name} holds other weights than {stage.base}. {advice}"
            )
    elif not name or name not in (stage.base_name, stage.base.as_posix()):
        raise TrainingError(
            f"adapter {folder}: names {name!r} as its base, which is not a folder here, "
            f"and this stage's base is {stage.base}. "
            f"If that is the same model, give base_name={name!r}."
        )


def set_adapter(model: Any, folder: Path) -> None:
    """Copies A and B from a folder into the model's adapter, bit for bit.

    Args:
        model: a model with an adapter; see `add_adapter`.
        folder: the folder of an adapter.

    Raises:
        TrainingError: the two adapters differ in a setting, in their modules, or in a shape.
    """
    from peft import set_peft_model_state_dict

    config, stored = _open(folder)
    _check_settings(model, folder, config)
    saved = {name.removeprefix(PREFIX): stored[name] for name in stored}
    fresh: dict[str, Tensor] = model.get_adapter_state_dict()
    if saved.keys() != fresh.keys():
        raise TrainingError(
            f"adapter {folder}: is on {_modules(saved)}, and this stage's is on {_modules(fresh)}. "
            "Give lora the same targets, or leave adapter out."
        )
    for name, tensor in saved.items():
        if tensor.shape != fresh[name].shape:
            raise TrainingError(
                f"adapter {folder}: {name} is {tuple(tensor.shape)}, "
                f"and {tuple(fresh[name].shape)} on this base. "
                "Give the base that it was trained on, or leave adapter out."
            )
    # PEFT ignores tensors that it cannot place, and the training would begin without them.
    result = set_peft_model_state_dict(model, saved)
    if result.unexpected_keys:
        raise TrainingError(
            f"adapter {folder}: {len(result.unexpected_keys)} tensors match nothing in the model, "
            f"for example {result.unexpected_keys[0]}. "
            "Merge it into its base first, with `dem merge`."
        )


def _open(folder: Path) -> tuple[dict[str, Any], Checkpoint]:
    """Opens an adapter's folder: its configuration and its factors, from safetensors alone.

    Raises:
        TrainingError: a file is missing, a pickle or damaged, or it is no plain LoRA adapter.
    """
    for name in (CONFIG, WEIGHTS):
        # A pickle in the place of the weights has a message of its own.
        if not (folder / name).is_file() and not (folder / "adapter_model.bin").is_file():
            raise TrainingError(
                f"adapter {folder}: has no {name}. "
                "Give the folder of a LoRA adapter that PEFT wrote."
            )
    try:
        return read_adapter(folder)
    except CheckpointError as error:
        raise TrainingError(f"adapter {folder}: {error}") from None


def _check_settings(model: Any, folder: Path, config: Mapping[str, Any]) -> None:
    """Refuses an adapter whose settings, as PEFT wrote them, differ from the model's adapter."""
    from peft import LoraConfig

    own = model.peft_config["default"].to_dict()
    # An older PEFT wrote fewer settings; the missing ones have their defaults.
    saved = LoraConfig().to_dict() | dict(config)
    for settings in (own, saved):
        if settings["init_lora_weights"] in PLAIN_STARTS:
            settings["init_lora_weights"] = True
    # `or None`: versions of PEFT write an unused setting as None, {} or [].
    differences = [
        f"{name} is {saved[name]!r} there and {own.get(name)!r} here"
        for name in saved
        if name not in NEUTRAL and (saved[name] or None) != (own.get(name) or None)
    ]
    if differences:
        raise TrainingError(
            f"adapter {folder}: has other settings than this stage's: {'; '.join(differences)}. "
            "Give lora the same rank (r), alpha and rslora, or leave adapter out."
        )


def _modules(names: Iterable[str]) -> str:
    """Describes the modules of an adapter's tensors: "4 modules that end in k_proj, q_proj"."""
    modules = {name.rsplit(".lora_", 1)[0] for name in names}
    ends = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in modules}))
    return f"{len(modules)} modules that end in {ends}"


def tidy_adapter(folder: Path, base: str) -> None:
    """Completes the folder of an adapter that has just been written.

    It removes the settings for generation, which belong to the base, names `base` as the adapter's
    base, and marks the adapter as one for inference.

    Args:
        folder: the folder of an adapter.
        base: path or name of its base.
    """
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / CONFIG
    settings = json.loads(path.read_text("utf-8"))
    # PEFT keeps the targets as a set and would write them in another order in each process.
    settings["target_modules"] = sorted(settings["target_modules"])
    settings |= {"base_model_name_or_path": base, "inference_mode": True}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
