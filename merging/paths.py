"""File names in model folders, and tests for what a folder is."""

from __future__ import annotations

import os
from pathlib import Path

INDEX = "model.safetensors.index.json"
"""The index of a sharded model."""

SINGLE = "model.safetensors"
"""The weights of a model in one file."""

MODULES = "modules.json"
"""The modules of a sentence-transformers model, and the sub-folders of some of them."""

PIPELINE = "model_index.json"
"""The sub-folders of a diffusers pipeline."""

ADAPTER = "adapter_config.json"
"""The configuration of a PEFT adapter."""

WEIGHTS = "adapter_model.safetensors"
"""The weights of a PEFT adapter."""

DELTAS = "delta.safetensors"
"""The deltas of a saved distribution vector; see merging.inputs.saved_vector."""


def is_adapter(path: str | Path) -> bool:
    """Returns whether a folder is a PEFT adapter."""
    return exists(Path(path) / ADAPTER)


def exists(path: Path) -> bool:
    """Returns whether a path exists; False for a path that is too long or not a path at all.

    Path.exists raises an OSError for a name that is too long (Python 3.11).
    """
    return os.path.exists(path)  # noqa: PTH110
