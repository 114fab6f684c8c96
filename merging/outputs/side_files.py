"""Writes the files of an export that are no weights: configuration, tokenizer and index."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from merging.errors import ExportError
from merging.file_kinds import kind_by_content
from merging.folder_files import FILE_BYTES, FolderFiles, describe_left_out, folder_files
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.vocabulary.aligned import Grown
from merging.inputs.vocabulary.tokens import with_added_tokens
from merging.inputs.weight_files import module_folders
from merging.outputs.card import escape_cell
from merging.outputs.config_file import config_json, is_configuration, with_recipe_dtype
from merging.outputs.staging import copy_file, write_file
from merging.paths import INDEX, MODULES
from merging.recipe import Recipe
from plumbing.inside_folder import open_inside

# Without these, the export would be another model.
_NEEDED = ("config.json", MODULES)


def side_files(base: Checkpoint) -> FolderFiles:
    """Returns the files that are copied from a base's folder, and those that are left out.

    Raises:
        ExportError: if a file is left out without which the export could not be loaded.
    """
    chosen = folder_files(base.path, module_folders(base.path))
    for name in _NEEDED:
        if why := chosen.left_out.get(name):
            raise ExportError(
                f"{base.path / name} is not copied into an export: {why}. Put the file itself into "
                "the folder."
            )
    return chosen


def write_side_files(
    staging: Path,
    base: Checkpoint,
    recipe: Recipe,
    index: dict[str, Any] | None,
    names: Sequence[str],
    dtypes: Collection[torch.dtype] = (),
) -> dict[str, tuple[int, str]]:
    """Writes the copied files and, if there are several weight files, their index.

    Args:
        staging: the folder to write to.
        base: Θ. If its vocabulary was extended, the new tokens are added to its tokenizer files.
        recipe: may change dtype and layers in config.json.
        index: the content of the index file; None for a single weight file.
        names: the files to copy; see side_files.
        dtypes: the floating-point dtypes of the export's weights.

    Returns:
        file name -> its size in bytes and SHA-256.

    Raises:
        ExportError: if a file has become one that is not copied since it was chosen.
    """
    files = {}
    for name in names:
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Checked once more on what is copied: the folder may be somebody else's.
        with open_inside(base.path, name) as source:
            if kind := kind_by_content(source):
                raise ExportError(f"{base.path / name} has become {kind}. Export again.")
            source.seek(0)
            if not is_configuration(name, base) and not isinstance(base, Grown):
                files[name] = copy_file(target, source, FILE_BYTES)
                continue
            content = source.read(FILE_BYTES)
        if name == "config.json":
            content = config_json(base, recipe, content, dtypes)
        elif is_configuration(name, base):
            content = with_recipe_dtype(base, recipe, content)
        if isinstance(base, Grown):
            content = with_added_tokens(name, content, base.entries, base.rows)
        files[name] = write_file(target, content)
    if index is not None:
        files[INDEX] = write_file(staging / INDEX, json.dumps(index, indent=2).encode())
    return files


def left_out_note(left_out: Mapping[str, str]) -> str:
    """Returns a paragraph for the model card on the files of the base that are not in the export.

    Empty if there are none.
    """
    if not left_out:
        return ""
    return f"\nNot copied from the base's folder: {escape_cell(describe_left_out(left_out))}.\n"
