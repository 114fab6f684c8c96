"""Checks a folder with a sentence-transformers model before the library opens it.

The library imports the classes that the folder's JSON files name, from the folder itself even if
code is not trusted, and reads pickles where no safetensors are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from merging.errors import LoadError
from merging.file_kinds import kind_by_name
from merging.live.model_config import entries, read_untrusted, refuse_elsewhere
from plumbing.suggest import listed
from training.errors import TrainingError

MOST = 2_000
"""The most files of such a folder."""

KNOWN = ("sentence_transformers", "torch.nn")
"""The packages whose classes a module may be, or have as its activation."""

CLASS_KEYS = ("type", "types", "activation_function", "activation_fn", "loss", "module_class")
"""Keys whose value the library imports, or may import, if it is the full name of a class."""

CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
"""A class by its full name, as sentence_transformers.models.Pooling."""


def check_encoder(folder: Path) -> None:
    """Refuses a folder that would make the library run code or open a pickle.

    Raises:
        TrainingError: it is not a folder with modules.json, a JSON file in it names code or
            kernels, a module is of another package or in another folder, or weights are pickles.
    """
    if not (folder / "modules.json").is_file():
        raise TrainingError(
            f"model {folder}: has no modules.json. Give the folder of a sentence-transformers "
            "model, or encoder: tfidf."
        )
    files = [path for path in folder.rglob("*") if path.is_file()]
    if len(files) > MOST:
        raise TrainingError(f"model {folder}: has {len(files):,} files; at most {MOST:,} are read.")
    try:
        for file in files:
            # These hold the vocabulary as keys, which may be any word.
            if file.suffix == ".json" and file.name not in ("tokenizer.json", "vocab.json"):
                _check_settings(file, read_untrusted(file))
    except LoadError as error:
        raise TrainingError(f"model {error}") from None
    whole = {path.parent for path in files if path.suffix == ".safetensors"}
    pickles = [
        str(path.relative_to(folder))
        for path in files
        if kind_by_name(path.name) in ("weights", "a pickle") and path.suffix != ".safetensors"
        if path.parent not in whole
    ]
    if pickles:
        raise TrainingError(
            f"model {folder}: its weights are in {listed(sorted(pickles))}, expected safetensors. "
            "Pickles can run code when they are opened, so they are not read. Give another model."
        )


def _check_settings(file: Path, document: Any) -> None:
    """Refuses settings that name code of other packages, or files elsewhere."""
    refuse_elsewhere(file, document)
    for key, value in entries(document):
        # "types" maps the paths of a Router's parts to their classes.
        values = value.values() if key == "types" and isinstance(value, dict) else [value]
        for name in (name for name in values if isinstance(name, str)):
            foreign = not name.startswith(tuple(f"{package}." for package in KNOWN))
            if key in CLASS_KEYS and CLASS.fullmatch(name) and foreign:
                raise LoadError(
                    f"{file}: {key} is {name[:80]!r}, a class of another package. Only those of "
                    f"{' and '.join(KNOWN)} are loaded; give another model."
                )
            if key == "path" and (name.startswith(("/", "~")) or ".." in re.split(r"[/\\]", name)):
                raise LoadError(
                    f"{file}: a module is in {name[:80]!r}, outside the folder. Give another model."
                )
