"""Writes the files of an export that are no weights: configuration, tokenizer and index."""

import json
import re
from pathlib import Path
from typing import Any

from merging.inputs.checkpoint import Checkpoint
from merging.inputs.vocabulary.aligned import Grown
from merging.inputs.vocabulary.tokens import with_added_tokens
from merging.outputs.staging import write_file
from merging.paths import INDEX
from merging.recipe import Recipe

# Files that are copied from the base: configuration, tokenizer, chat templates. Never code, and
# never weights of any kind.
_SIDE_FILES = re.compile(
    r".*\.(json|txt|model|jinja|tiktoken|vocab|merges)|LICENSE.*|NOTICE.*|USE_POLICY.*"
)
_NOT_COPIED = re.compile(
    r".*\.index\.json|adapter_config\.json|train(er_state|ing)\.json|MANIFEST\.json|recipe\.(yml|json)"
)


def write_side_files(
    staging: Path, base: Checkpoint, recipe: Recipe, index: dict[str, Any] | None
) -> dict[str, tuple[int, str]]:
    """Writes the copied files and, if there are several weight files, their index.

    Args:
        staging: the folder to write to.
        base: Θ. If its vocabulary was extended, the new tokens are added to its tokenizer files.
        recipe: may change dtype and layers in config.json.
        index: the content of the index file; None for a single weight file.

    Returns:
        file name -> its size in bytes and SHA-256.
    """
    files = {}
    for source in side_files(base.path):
        name = str(source.relative_to(base.path))
        (staging / name).parent.mkdir(exist_ok=True)
        content = source.read_bytes()
        if name == "config.json":
            content = _config_json(base, recipe, content)
        if isinstance(base, Grown):
            content = with_added_tokens(name, content, base.entries, base.rows)
        files[name] = write_file(staging / name, content)
    if index is not None:
        files[INDEX] = write_file(staging / INDEX, json.dumps(index, indent=2).encode())
    return files


def side_files(folder: Path) -> list[Path]:
    """Returns the files that are copied from a base's folder.

    They are configuration, tokenizer, chat templates and licences.
    """
    candidates = [*folder.iterdir(), *folder.glob("additional_chat_templates/*.jinja")]
    return sorted(
        file
        for file in candidates
        if file.is_file()
        and _SIDE_FILES.fullmatch(file.name)
        and not _NOT_COPIED.fullmatch(file.name)
    )


def _config_json(base: Checkpoint, recipe: Recipe, content: bytes) -> bytes:
    """Returns config.json: unchanged unless the recipe sets a dtype or restacks the layers."""
    named = recipe.out_dtype or recipe.dtype
    config = dict(base.config)
    if named is not None and any(base.info(name).dtype.is_floating_point for name in base):
        # transformers has renamed torch_dtype to dtype; most configurations have the old key.
        keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
        config |= dict.fromkeys(keys, named)
    if config == base.config and not recipe.slices:
        return content
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
