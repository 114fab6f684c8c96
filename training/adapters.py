"""LoRA adapters on a model: the only door to peft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.stage import Lora


def add_adapter(model: Any, lora: Lora) -> None:
    """Puts an adapter on the model and freezes everything else; its first A is random, its first B zero.

    Raises:
        TrainingError: a target names no module of the model.
    """
    from peft import LoraConfig

    names = [name for name, _ in model.named_modules() if name]
    for target in lora.targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            ends = sorted({name.rsplit(".", 1)[-1] for name in names} - {str(number) for number in range(1000)})
            raise TrainingError(f'LoRA target "{target}" names no module. Modules end in: {", ".join(ends)}.')
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


def tidy_adapter(folder: Path, base: str) -> None:
    """Leaves how to generate to the base, makes its path the one that was given, and the adapter one that is only used."""
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text("utf-8"))
    # peft keeps the targets as a set, and would write them in another order in each process
    settings["target_modules"] = sorted(settings["target_modules"])
    settings |= {"base_model_name_or_path": base, "inference_mode": True}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
