"""Reads the config.json of a model folder, which came from a stranger, and refuses what is unsafe.

transformers takes much more from this file than sizes: code to import, another configuration file,
kernels that it downloads and runs, the name of a second model that it asks the hub for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import CheckpointError, LoadError, cause
from merging.inputs.strict_json import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate")
"""Keys that make a loader import code from the folder or the hub.

CVE-2026-5241 is one of several reports about them.
"""

IMPLEMENTATIONS = {
    "attn_implementation": ("eager", "sdpa", "flex_attention"),
    "experts_implementation": ("eager", "batched_mm", "grouped_mm"),
}
"""Key -> the implementations that are a part of torch and transformers.

Every other one is a package, or a kernel that transformers downloads from the hub and runs: a name
with a slash always, flash_attention_2 and sonicmoe if the package `kernels` is installed.
"""

KERNEL_KEYS = ("use_kernels", "kernel_config", "hub_kernels", "use_hub_kernels")
"""Keys that ask for kernels of the hub whatever their value is."""

ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")
"""How timm's names of models begin that are read from the hub or from another folder."""


def read_config(folder: Path) -> PreTrainedConfig:
    """Reads and checks the config.json of a model folder. The file is not trusted.

    Raises:
        LoadError: the folder or the file is missing, the file is not JSON, it asks a loader to run
            code or to fetch anything, it describes quantised weights, or transformers rejects it.
    """
    from transformers import AutoConfig

    # transformers takes a path that is no folder for a hub id and reports a failed connection.
    if not folder.is_dir():
        raise LoadError(
            f"{folder} is not a folder. "
            "Give the folder of a saved model (config.json, *.safetensors)."
        )
    file = folder / "config.json"
    if not file.is_file():
        raise LoadError(
            f"{folder} has no config.json. Copy it from the model that the weights belong to."
        )
    document = read_untrusted(file)
    if not isinstance(document, dict):
        raise LoadError(f"{file} holds a JSON {type(document).__name__}, expected an object.")
    refuse_elsewhere(file, document)
    for key, value in entries(document):
        if key in ("quantization_config", "compression_config") and value:
            raise LoadError(
                f"{file} describes quantised weights, which cannot be composed. "
                "Give the full-precision model."
            )
    try:
        return AutoConfig.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        # The file is untrusted, and every architecture raises errors of its own kind for it.
        raise LoadError(
            f"{file}: {cause(error)}. Correct it, or copy it again from the original model."
        ) from None


def read_untrusted(file: Path) -> Any:
    """Reads a JSON file of a model folder that a loader is going to read, and refuses code in it.

    Raises:
        LoadError: it cannot be read, is not JSON, or has one of CODE_KEYS at any depth.
    """
    try:
        document = parse_json(file.read_bytes(), str(file), finite=False)
    except (OSError, CheckpointError) as error:
        raise LoadError(f"{cause(error)}. Copy it again from the original model.") from None
    for key, value in entries(document):
        # Empty is what some tools write where there is none.
        if key in CODE_KEYS and value not in (None, False, {}, []):
            raise LoadError(
                f"{file} holds {key!r}, which makes a loader run code from the folder. Such models "
                "are refused; use a version of the model for an architecture that transformers "
                "has built in."
            )
    return document


def refuse_elsewhere(file: Path, document: Any) -> None:
    """Refuses a configuration that would make a loader fetch something, or read another folder.

    Raises:
        LoadError: with the key that does.
    """
    for key, value in entries(document):
        if message := _elsewhere(key, value):
            raise LoadError(f"{file}: {message}")


def entries(document: Any) -> Iterator[tuple[str, Any]]:
    """Yields every key with its value, at any depth.

    A composite configuration has one document per part, and loaders read those too.
    """
    if isinstance(document, dict):
        for key, value in document.items():
            yield str(key), value
            yield from entries(value)
    if isinstance(document, list):
        for item in document:
            yield from entries(item)


def _elsewhere(key: str, value: Any) -> str | None:
    """Says what an entry would make a loader fetch, or read from another place; None if nothing."""
    name = key.strip("_").removesuffix("_internal")
    if name.endswith("implementation"):
        built_in = IMPLEMENTATIONS.get(name)
        for word in _words(value):
            if word not in built_in if built_in else "/" in word:
                return (
                    f"{key} is {word[:80]!r}, a package or a kernel of the hub. Built in are "
                    f"{', '.join(built_in or ['the names without a slash'])}. Remove the key: it "
                    "decides the speed, not the result."
                )
    if key in KERNEL_KEYS and value:
        return f"{key} asks for kernels of the hub, which are code. Remove the key."
    if key == "configuration_files" and value:
        return f"{key} names other files for this one. Keep the one that is meant as config.json."
    # In the place of backbone_config, the name of a model whose configuration is fetched.
    if key == "backbone" and isinstance(value, str):
        return f"backbone names another model, {value[:80]!r}. Write its backbone_config instead."
    for word in [value] if isinstance(value, str) else []:
        if word.startswith(ELSEWHERE):
            return f"{key} is {word[:80]!r}, another model's address. Write its configuration."
    return None


def _words(value: Any) -> list[str]:
    """Returns the texts in a value: one, or one per part of a composite model."""
    if value is None:
        return []
    if isinstance(value, dict):
        return [word for part in value.values() for word in _words(part)]
    return [value if isinstance(value, str) else json.dumps(value)]
