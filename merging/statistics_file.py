"""Writes a file of statistics, tensor by tensor; merging/statistics.py reads it."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from merging.checkpoint import exists
from merging.errors import ExportError
from merging.safetensors_header import written_header
from merging.statistics import KEY, Facts


def check_target(out: str | Path, nbytes: int = 0) -> None:
    """Raise an ExportError for a place where no file of this size can be made; ask before hours of collecting."""
    out = Path(out)
    if os.path.lexists(out):
        raise ExportError(f"{out} exists. Give the name of a new file; nothing is written over an old one.")
    if not (exists(out.parent) and out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise ExportError(f"{out.parent} is not a folder that can be written. Make it first, or give another place.")
    free = shutil.disk_usage(out.parent).free
    if free < nbytes:
        raise ExportError(
            f"{out.parent} has {free / 1e9:.2f} GB free, the statistics need {nbytes / 1e9:.2f} GB. Free some, or give "
            "another place."
        )


def write(out: str | Path, facts: Facts, tensors: Mapping[str, Tensor]) -> None:
    """Write statistics as float32, one tensor at a time, and make the file appear whole.

    Args:
        out: the file to make; it must not exist.
        facts: what it says of itself.
        tensors: by the model's tensor names, of any layout in memory.

    Raises:
        ExportError: when it exists or cannot be written; nothing is left then.
    """
    out = Path(out)
    check_target(out, sum(4 * value.numel() for value in tensors.values()))
    stored = [(name, torch.float32, tuple(value.shape)) for name, value in tensors.items()]
    draft = out.with_name(f".{out.name}.{os.getpid()}.draft")
    try:
        with draft.open("xb") as file:
            file.write(written_header(stored, {"format": "pt", KEY: json.dumps(facts._asdict())}))
            for value in tensors.values():
                file.write(value.detach().float().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, out)  # unlike a rename it refuses a file that has been made meanwhile
    except OSError as error:
        raise ExportError(f"{out} could not be written: {error.strerror or error}. Nothing was left behind.") from None
    finally:
        draft.unlink(missing_ok=True)
