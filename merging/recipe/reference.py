"""Reads and writes how a recipe names a model: text such as `base+adapter`, or mergekit's mapping.

    models:
      - model: models/cot                                     # a folder
      - model: org/cot@v1.0                                   # a model of the hub, at a revision
      - model: models/base+adapters/p3                        # an adapter on its base
      - model: {model: models/base, lora: adapters/p3}        # the same as a mapping
      - model: {model: {path: org/cot, revision: v1.0}}       # the second one as a mapping
      - model: {model: {path: models/a+b}}                    # a folder whose name has a +

As in mergekit, a + in a text begins an adapter, except that a text that is a folder's name as a
whole is that folder. A text that could mean either is refused: merging the other one of the two
would give a model that looks right and is not. In a mapping, nothing is split.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from merging.errors import RecipeError
from merging.recipe import fields
from plumbing.suggest import nearest

_KEYS = ("model", "lora", "override_architecture")
_PATH_KEYS = ("path", "revision")

_SPELLED_OUT = "{model: {path: …}}"

IsFolder = Callable[[str], bool]
"""Reports whether a path, as a recipe has it, is a folder."""


class Reference(NamedTuple):
    """How a recipe names a model: a folder or a hub id, and perhaps an adapter on it."""

    path: str
    lora: str | None = None

    def __str__(self) -> str:
        return self.path if self.lora is None else f"{self.path}+{self.lora}"


def is_folder_from(folder: Path | None) -> IsFolder:
    """Returns a test for folders in the working directory and, if given, in a recipe's folder."""

    def is_folder(path: str) -> bool:
        # os.path, because Path.is_dir raises for a name that is too long (Python 3.11).
        places: list[str | Path] = [path] if folder is None else [path, folder / path]
        return any(os.path.isdir(place) for place in places)  # noqa: PTH112

    return is_folder


def read_reference(
    raw: Any, key: str, is_folder: IsFolder, expected: str = "the folder of a checkpoint"
) -> Reference:
    """Reads a model's name as mergekit does.

    Args:
        raw: text or a mapping, as YAML gives it.
        key: what messages call it.
        is_folder: decides whether a text with a + is the name of a folder.
        expected: what messages say was expected.

    Raises:
        RecipeError: neither text nor a mapping of the known keys, a key that cannot be followed
            here, or a text with a + that could mean two things.
    """
    if not isinstance(raw, dict):
        return _split(_text(raw, key, expected), key, is_folder)
    for name in raw:
        if name not in _KEYS:
            hint = (
                f"write {{model: {{{name}: …}}}}"
                if name in _PATH_KEYS
                else nearest(str(name), _KEYS)
            )
            raise RecipeError(f"{key}: unknown key {name!r}; {hint}")
    if raw.get("override_architecture") is not None:
        raise RecipeError(
            f"{key}.override_architecture is not read: tensors are matched by the names in the "
            "files, without a table of architectures. Remove the key."
        )
    lora = raw.get("lora")
    return Reference(
        _path(raw.get("model"), f"{key}.model", is_folder),
        None if lora is None else _path(lora, f"{key}.lora", is_folder),
    )


def read_base(raw: Any, key: str, is_folder: IsFolder) -> str | None:
    """Reads the name of a base, which has no adapter; null is None. See read_reference.

    Raises:
        RecipeError: as read_reference, and for an adapter.
    """
    if raw is None:
        return None
    reference = read_reference(raw, key, is_folder, "the folder of a model")
    if reference.lora is not None:
        folder = (
            f" A folder that is called {raw!r} is written as {_SPELLED_OUT}."
            if isinstance(raw, str)
            else ""
        )
        raise RecipeError(
            f"{key} is {reference}, the adapter {reference.lora!r} on {reference.path!r}, and the "
            "base must be a full model. Merge the adapter into its own base first (dem merge, or "
            f"peft's merge_and_unload) and name the result.{folder}"
        )
    return reference.path


def write_reference(reference: Reference) -> str | dict[str, Any]:
    """Returns a reference as YAML has it: text if that is read back as the same, else a mapping."""
    path, lora = reference
    is_folder = is_folder_from(None)
    text = str(reference)
    # mergekit takes what follows an @ for a revision, so a folder with an @ needs the mapping there
    # and, by the same rule, here.
    literal = [part for part in reference if part is not None and "@" in part and is_folder(part)]
    if "+" in path or "+" in (lora or "") or literal or (lora is not None and is_folder(text)):
        whole: dict[str, Any] = {"model": {"path": path}}
        return whole if lora is None else whole | {"lora": {"path": lora}}
    return text


def _split(text: str, key: str, is_folder: IsFolder) -> Reference:
    """Reads a text, in which a + may begin an adapter."""
    if "+" not in text:
        return Reference(text)
    splits = [
        Reference(text[:at], text[at + 1 :])
        for at, character in enumerate(text)
        if character == "+" and text[:at] and text[at + 1 :]
    ]
    # Folders decide, where there are any: a hub id or a missing folder is no evidence.
    present = [split for split in splits if is_folder(split.path) and is_folder(split.lora or "")]
    if is_folder(text):
        if present:
            raise RecipeError(
                f"{key} is {text!r}, which is the name of a folder, and also that of the adapter "
                f"{present[0].lora!r} on {present[0].path!r}. "
                f"{_how_to_write(text, present[0])}"
            )
        return Reference(text)
    found = present or splits
    if len(found) == 1:
        return found[0]
    if not found:
        raise RecipeError(
            f"{key} is {text!r}: a + stands between a model and an adapter, and one of the two is "
            f"missing. A folder of this name is written as {_SPELLED_OUT}."
        )
    raise RecipeError(
        f"{key} is {text!r}, and more than one + leaves open where the adapter begins. "
        f"{_how_to_write(text, found[0])}"
    )


def _how_to_write(text: str, split: Reference) -> str:
    """Returns how to write both meanings of a text with a +."""
    return (
        f"Write it as {{model: {{path: {text!r}}}}} for the folder, or as "
        f"{{model: {{path: {split.path!r}}}, lora: {{path: {split.lora!r}}}}} for the adapter."
    )


def _path(raw: Any, key: str, is_folder: IsFolder) -> str:
    """Reads the path of a model or of an adapter: text, or mergekit's {path: …, revision: …}."""
    if not isinstance(raw, dict):
        return _text(raw, key, "a folder or a hub id")
    for name in raw:
        if name not in _PATH_KEYS:
            raise RecipeError(f"{key}: unknown key {name!r}; {nearest(str(name), _PATH_KEYS)}")
    path = _text(raw.get("path"), f"{key}.path", "a folder or a hub id")
    revision = fields.text(raw.get("revision"), f"{key}.revision")
    if revision is None:
        return path
    # mergekit would take the folder and forget the revision.
    if is_folder(path) or is_folder(f"{path}@{revision}"):
        raise RecipeError(
            f"{key}.revision is {revision!r}, and only models of the hub have revisions; "
            f"{path!r} is a folder here. Remove the revision, or run this elsewhere."
        )
    if "@" in path:
        raise RecipeError(
            f"{key}: {path!r} has a revision already, and revision is {revision!r}. Give one of "
            "them."
        )
    return f"{path}@{revision}"


def _text(raw: Any, key: str, expected: str) -> str:
    """Checks for text that is not empty."""
    if raw is None:
        raise RecipeError(f"{key} is missing, expected {expected}.")
    if not (isinstance(raw, str) and raw and "\0" not in raw):
        raise RecipeError(f"{key} is {raw!r}, expected {expected}.")
    return raw
