"""Chooses the files of a model's folder that belong to every copy of the model.

These are all files that are neither weights, nor code, nor a pickle: configuration, tokenizer, chat
templates, normalisers, pooling, licences, and what nobody has thought of yet. One rule serves
folders on the disk and listings of the hub, of which only names and sizes are known.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from merging.file_kinds import kind_by_content, kind_by_name
from merging.paths import ADAPTER
from plumbing.inside_folder import OUTSIDE, SPECIAL, open_inside, resolve_inside
from plumbing.suggest import listed

FILE_BYTES = 256_000_000
"""The largest file that comes along; the largest tokenizers have 35 MB."""
TOTAL_BYTES = 1_000_000_000
"""The most bytes of all files together."""
FILES = 2000
"""The most files; a voice model has 1,200."""
DEPTH = 4
"""The most sub-folders inside each other."""

# Files of this program's exports, of trainings and of adapters: they tell of the base, not of the
# merge. Letters of both cases, because a disk may take README.md and readme.md for one file.
_NOT_OF_A_COPY = re.compile(
    r"adapter_config\.json|(trainer_state|training)\.json|manifest\.json|recipe\.(yml|json)"
    r"|.*\.index(\.[^.]+)?\.json|events\.out\.tfevents\..*",
    re.IGNORECASE,
)
_CARD = re.compile(r"readme\.md", re.IGNORECASE)
# What some system cannot have in a name, or cannot print. A surrogate stands for a byte that is not
# UTF-8.
_ODD = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_STATE, _CONFIG = "trainer_state.json", "config.json"


class FolderFiles(NamedTuple):
    """The files of a folder that belong to a copy of the model, and the others."""

    taken: tuple[str, ...]
    """Their names relative to the folder, with `/`, sorted."""
    left_out: dict[str, str]
    """Name -> why the file does not come along. Hidden files and weights are not listed."""
    nbytes: int
    """Bytes of the files that come along."""


def is_plain(name: str) -> bool:
    """Returns whether a name is that of a file in a folder or its sub-folders on every system."""
    parts = name.split("/")
    return (
        _ODD.search(name) is None
        and not any(part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in parts)
        and len(parts) <= DEPTH + 1
    )


def choose_files(sizes: Mapping[str, int], modules: Collection[str] = ()) -> FolderFiles:
    """Chooses by names and sizes.

    Args:
        sizes: name of every file in a folder and its sub-folders -> its size in bytes.
        modules: sub-folders that are a part of the model, such as 2_Dense.

    Returns:
        the files that come along. `left_out` names what a user would not expect: large files,
        and sub-folders with a model or a training of their own.
    """
    others = _other_models(sizes, modules)
    fitting, left_out = [], {}
    for name, size in sizes.items():
        if _is_internal(name, sizes):
            continue
        if not is_plain(name):
            left_out[name] = "its name is not one that every system can have"
        elif other := next((at for at in others if name.startswith(f"{at}/")), None):
            left_out[f"{other}/"] = others[other]
        elif kind := kind_by_name(name):
            if kind != "weights":
                left_out[name] = f"it is {kind}"
        elif size > FILE_BYTES:
            left_out[name] = f"it has {size:,} bytes, more than {FILE_BYTES:,}"
        else:
            fitting.append(name)
    # What lies on top is needed most, and small files before large ones, so that a large one cannot
    # keep a tokenizer out.
    taken: list[str] = []
    total = 0
    for name in sorted(fitting, key=lambda name: (name.count("/"), sizes[name], name)):
        if total + sizes[name] > TOTAL_BYTES or len(taken) == FILES:
            left_out[name] = f"all together have more than {TOTAL_BYTES:,} bytes or {FILES:,} files"
        else:
            total += sizes[name]
            taken.append(name)
    return FolderFiles(tuple(sorted(taken)), left_out, total)


def folder_files(folder: Path, modules: Collection[str] = ()) -> FolderFiles:
    """Chooses from a folder on the disk: by names and sizes, and by each file's first bytes.

    No file is chosen that a link outside the folder leads to, that is no regular file, or that
    cannot be read.

    Args:
        folder: the folder.
        modules: see choose_files.
    """
    sizes, left_out = _sizes(folder)
    chosen = choose_files(sizes, modules)
    left_out = chosen.left_out | left_out
    taken = []
    for name in chosen.taken:
        try:
            with open_inside(folder, name) as file:
                kind = kind_by_content(file)
        except OSError as error:
            left_out[name] = f"it cannot be read: {error.strerror}"
            continue
        if kind:
            left_out[name] = f"its content is {kind}"
        else:
            taken.append(name)
    readable = {name.encode(errors="replace").decode(): left_out[name] for name in sorted(left_out)}
    return FolderFiles(tuple(taken), readable, sum(sizes[name] for name in taken))


def describe_left_out(left_out: Mapping[str, str], most: int = 5) -> str:
    """Returns the left out files and the reasons as one text: 'a, b (it is code); c (…)'."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        reasons.setdefault(reason, []).append(name)
    return "; ".join(f"{listed(names, most)} ({reason})" for reason, names in reasons.items())


def _is_internal(name: str, names: Collection[str]) -> bool:
    """Returns whether a file is not worth a word: hidden, or written anew by every export."""
    parts = name.split("/")
    return (
        any(part.startswith(".") for part in parts)
        or _NOT_OF_A_COPY.fullmatch(parts[-1]) is not None
        or (len(parts) == 1 and _CARD.fullmatch(name) is not None)
        # Weights in a folder of parts, such as model.mlpackage/Manifest.json.
        or any(kind_by_name(part) == "weights" for part in parts[:-1])
        # A graph of OpenVINO describes the weights in the .bin file beside it.
        or (name.endswith(".xml") and f"{name[:-4]}.bin" in names)
    )


def _other_models(names: Collection[str], modules: Collection[str]) -> dict[str, str]:
    """Returns sub-folder -> why nothing of it comes along."""
    contents: dict[str, set[str]] = {}
    for name in names:
        at, _, file = name.rpartition("/")
        if at and not any(f"{at}/".startswith(f"{module}/") for module in modules):
            contents.setdefault(at, set()).add(file)
    others: dict[str, str] = {}
    for at, files in sorted(contents.items()):
        if any(at.startswith(f"{outer}/") for outer in others):
            continue
        if _STATE in files:
            others[at] = "it is a state of a training"
        elif ADAPTER in files or (
            _CONFIG in files and any(kind_by_name(file) == "weights" for file in files)
        ):
            others[at] = "it is a model of its own"
    return others


def _sizes(folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Returns name -> size of each file below a folder, and name -> why a file cannot be taken.

    A link that stays in the folder is a file like any other, unless it hides the kind of what it
    leads to. Linked folders are not entered.
    """
    sizes: dict[str, int] = {}
    unusable: dict[str, str] = {}
    root = os.path.realpath(folder)

    def relative(path: str) -> str:
        return os.path.relpath(path, root)

    def unreadable(error: OSError) -> None:
        unusable[f"{relative(error.filename)}/"] = f"it cannot be read: {error.strerror}"

    for at, folders, files in os.walk(root, onerror=unreadable):
        names = {name: relative(f"{at}/{name}") for name in (*folders, *files) if name[0] != "."}
        for name in sorted(set(files) & names.keys()):
            size = _size(folder, names[name])
            if isinstance(size, int):
                sizes[names[name]] = size
            else:
                unusable[names[name]] = size
        entered = []
        for name in sorted(set(folders) & names.keys()):
            if os.path.islink(f"{at}/{name}"):  # noqa: PTH114
                unusable[f"{names[name]}/"] = "it is a link to a folder"
            elif names[name].count("/") >= DEPTH:
                unusable[f"{names[name]}/"] = f"it lies more than {DEPTH} folders deep"
            elif len(sizes) > 10 * FILES:
                unusable[f"{names[name]}/"] = f"it comes after {10 * FILES:,} other files"
            else:
                entered.append(name)
        folders[:] = entered
    return sizes, unusable


def _size(folder: Path, name: str) -> int | str:
    """Returns the size of a file that may come along, or why it must not."""
    real = resolve_inside(folder, name)
    if real is None:
        return f"it is {OUTSIDE}"
    try:
        status = real.stat(follow_symlinks=False)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return f"it is {SPECIAL}"
    # The name must not hide what the rule looks for: LICENSE -> .env
    target = os.path.relpath(real, os.path.realpath(folder))
    hidden = not target.startswith("../") and _is_told_by_name(target)
    return f"it is a link to {target}" if hidden and not _is_told_by_name(name) else status.st_size


def _is_told_by_name(name: str) -> bool:
    """Returns whether a name alone tells that a file does not come along."""
    return _is_internal(name, ()) or kind_by_name(name) is not None
