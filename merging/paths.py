"""file names of a model folder; exists(), is_adapter()."""

from __future__ import annotations

import os
from pathlib import Path

INDEX = "model.safetensors.index.json"


SINGLE = "model.safetensors"


ADAPTER = "adapter_config.json"


DELTAS = "delta.safetensors"
"""The file of a distribution vector that was saved on its own; see merging.inputs.saved_vector."""


def is_adapter(path: str | Path) -> bool:
    """Whether a folder is a PEFT adapter."""
    return exists(Path(path) / ADAPTER)


def exists(path: Path) -> bool:
    """Whether something is there. Path.exists raises an OSError for a name that is too long (Python 3.11)."""
    return os.path.exists(path)  # noqa: PTH110


WEIGHTS = "adapter_model.safetensors"
