"""LoRA adapters on a model: the only door to peft."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.errors import TrainingError
from training.run import record as facts
from training.stage import Lora, Stage

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter that PEFT writes."""

PREFIX = "base_model.model."
"""Of every name in such a file."""

NEUTRAL = (
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version", "revision", "task_type",
    "target_modules",
)  # fmt: skip
"""Of PEFT's settings, those in which an adapter that goes on may differ. The targets are compared by their tensors."""

PLAIN_STARTS = (True, False, "gaussian")
"""First weights of an adapter that leave the base as it is; others, such as PiSSA, subtract something from it."""


def add_adapter(model: Any, lora: Lora) -> None:
    """Puts an adapter on the model and freezes everything else; its first A is random, its first B zero.

    Raises:
        TrainingError: a target names no module of the model.
    """
    from peft import LoraConfig

    names = [name for name, _ in model.named_modules() if name]
    for target in lora.targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            ends = sorted(
                {name.rsplit(".", 1)[-1] for name in names}
                - {str(number) for number in range(1000)}
            )
            raise TrainingError(
                f'LoRA target "{target}" names no module. Modules end in: {", ".join(ends)}.'
            )
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=2 * lora.rank if lora.alpha is None else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
        use_rslora=lora.rslora,
        task_type="CAUSAL_LM",
    )
    # transformers' own door to peft: get_peft_model of peft 0.21 asks a property that transformers 5.23 warns of
    model.add_adapter(settings)


def unlike(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what two adapters differ, so that training cannot go on from the first with the second; empty where it can.

    Args:
        there, here: fields of a Lora by name; what is left out has its default. Dropout may differ.

    >>> unlike({"rank": 8}, {"rank": 8, "alpha": 4.0})
    'alpha was 16, is 4'
    """
    pairs = zip(_fixed(there).items(), _fixed(here).values(), strict=True)
    return "; ".join(
        f"{name} was {one}, is {other}" for (name, one), other in pairs if one != other
    )


def _fixed(lora: Mapping[str, Any]) -> dict[str, str]:
    alpha = lora.get("alpha")
    return {
        "rank": str(lora["rank"]),
        "alpha": f"{2 * lora['rank'] if alpha is None else alpha:g}",
        "targets": ", ".join(sorted(lora.get("targets", ()))) or "every linear layer",
        "rslora": "on" if lora.get("rslora") else "off",
    }


def check_start(folder: Path, stage: Stage) -> None:
    """Whether a folder holds an adapter on the stage's base, as far as can be known without the model.

    Its training.json names its base by identity. An adapter without one is taken by the name that it gives its base.

    Raises:
        TrainingError: it does not.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise TrainingError(
                f"adapter {folder}: has no {name}. Give the folder of a LoRA adapter that PEFT wrote."
            )
    advice = "Give the base that it was trained on, or leave adapter out."
    record, identity = folder / facts.NAME, facts.identity(stage.base)
    if record.is_file():
        known = json.loads(record.read_text("utf-8"))["base"]
        if known["identity"] != identity:
            raise TrainingError(
                f"adapter {folder}: was trained on {known['name']}, weights {known['identity'][:12]}…, and this stage's "
                f"base {stage.base} is {identity[:12]}…. {advice}"
            )
        return
    name = json.loads((folder / CONFIG).read_text("utf-8")).get("base_model_name_or_path")
    if name and (Path(name) / "config.json").is_file():
        if facts.identity(Path(name)) != identity:
            raise TrainingError(
                f"adapter {folder}: its base {name} holds other weights than {stage.base}. {advice}"
            )
    elif not name or name not in (stage.base_name, stage.base.as_posix()):
        raise TrainingError(
            f"adapter {folder}: names {name!r} as its base, which is not here, and this stage's base is {stage.base}. "
            f"If that is the same model, give base_name={name!r}."
        )


def set_adapter(model: Any, folder: Path) -> None:
    """Writes the A and B of a folder into the model's adapter, exactly.

    Raises:
        TrainingError: it is another kind of adapter: by a setting, by the modules that it is on, or by a shape.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    _check_settings(model, folder)
    saved = {
        name.removeprefix(PREFIX): tensor for name, tensor in load_file(folder / WEIGHTS).items()
    }
    fresh: dict[str, Tensor] = model.get_adapter_state_dict()
    if saved.keys() != fresh.keys():
        raise TrainingError(
            f"adapter {folder}: is on {_modules(saved)}, and this stage's is on {_modules(fresh)}. "
            "Give lora the same targets, or leave adapter out."
        )
    for name, tensor in saved.items():
        if tensor.shape != fresh[name].shape:
            raise TrainingError(
                f"adapter {folder}: {name} is {tuple(tensor.shape)}, and {tuple(fresh[name].shape)} on this base. "
                "Give the base that it was trained on, or leave adapter out."
            )
    result = set_peft_model_state_dict(model, saved)
    if result.unexpected_keys:
        raise TrainingError(
            f"adapter {folder}: {len(result.unexpected_keys)} tensors found no place in the model, for example "
            f"{result.unexpected_keys[0]}. Merge it into its base first, with `dem merge`."
        )


def _check_settings(model: Any, folder: Path) -> None:
    from peft import LoraConfig

    mine = model.peft_config["default"].to_dict()
    there = LoraConfig().to_dict() | json.loads((folder / CONFIG).read_text("utf-8"))
    for settings in (mine, there):
        if settings["init_lora_weights"] in PLAIN_STARTS:
            settings["init_lora_weights"] = True
    different = [
        f"{name} is {there[name]!r} there and {mine.get(name)!r} here"
        for name in there
        if name not in NEUTRAL and (there[name] or None) != (mine.get(name) or None)
    ]
    if different:
        raise TrainingError(
            f"adapter {folder}: is of another kind than this stage's: {'; '.join(different)}. "
            "Give lora the same rank (r), alpha and rslora, or leave adapter out."
        )


def _modules(names: Iterable[str]) -> str:
    """What tensors of an adapter belong to: "4 modules that end in k_proj, q_proj"."""
    modules = {name.rsplit(".lora_", 1)[0] for name in names}
    return f"{len(modules)} modules that end in {', '.join(sorted({name.rsplit('.', 1)[-1] for name in modules}))}"


def tidy_adapter(folder: Path, base: str) -> None:
    """Leaves how to generate to the base, makes its path the one that was given, and the adapter one that is only used."""
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / CONFIG
    settings = json.loads(path.read_text("utf-8"))
    # peft keeps the targets as a set, and would write them in another order in each process
    settings["target_modules"] = sorted(settings["target_modules"])
    settings |= {"base_model_name_or_path": base, "inference_mode": True}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
