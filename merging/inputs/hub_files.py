"""Chooses the files of a hub repository that a merge and its export read, by names and sizes.

These are the safetensors files of one model and of its modules, and everything that belongs to a
copy of the model; see merging.folder_files.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from merging.errors import CheckpointError
from merging.folder_files import choose_files
from merging.inputs.header import read_index
from merging.inputs.weight_files import explain_parts, module_folders, module_weights
from merging.paths import ADAPTER, INDEX, MODULES, PIPELINE, SINGLE, WEIGHTS
from plumbing.suggest import listed

TELLING = ("config.json", ADAPTER, INDEX, MODULES, PIPELINE)
"""The files that say which weights a model has; they are fetched first."""
# Read from what is opened, though an export does not copy them.
_ALWAYS = (ADAPTER, INDEX, "vector.json", "training.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def files_to_fetch(reference: str, folder: Path, listing: Mapping[str, int] | None) -> list[str]:
    """Returns the names of the files to fetch: weights first, then side files.

    Args:
        reference: the hub id, for messages.
        folder: the snapshot; it holds those of TELLING that the repository has.
        listing: name -> bytes of all files of the commit; None if unknown, then those in the
            snapshot count.

    Raises:
        CheckpointError: if no set of safetensors weights is complete, or there are two.
    """
    sizes = (
        {
            file.relative_to(folder).as_posix(): file.stat().st_size
            for file in folder.rglob("*")
            if file.is_file()
        }
        if listing is None
        else listing
    )
    names = list(sizes)
    weights = _weights(reference, folder, names)
    modules = module_folders(folder)
    missing = [name for name in weights if name not in names]
    if weights and not missing:
        parts = module_weights(reference, modules, names)
        weights += [f"{at}/{file}" for at, files in parts.items() for file in files]
        weights += [name for at in parts if (name := f"{at}/{INDEX}") in names]
        side = choose_files(sizes, modules).taken
        return list(dict.fromkeys([*weights, *(n for n in _ALWAYS if n in names), *side]))
    if listing is None:
        raise CheckpointError(
            f"{reference}: the cache holds only a part of it ({folder}), and the network is "
            "switched off or does not answer. Fetch it once with the network on, or give a folder."
        )
    if missing:
        raise CheckpointError(
            f"{reference}: {INDEX} names {listed(missing)}, which the repository does not have. "
            "Give another revision."
        )
    if message := explain_parts(reference, modules, names):
        raise CheckpointError(message)
    raise CheckpointError(_no_weights(reference, [name for name in names if "/" not in name]))


def _weights(reference: str, folder: Path, names: list[str]) -> list[str]:
    """Returns the weight files that Checkpoint and LoraVector would read; empty if they refuse."""
    adapter = [WEIGHTS] if ADAPTER in names and WEIGHTS in names else []
    if INDEX in names:
        shards = sorted(set(read_index(folder / INDEX).values()))
        if SINGLE in names and SINGLE not in shards:
            raise CheckpointError(
                f"{reference} holds {SINGLE} and shards with an index: two models in one "
                "repository, and tools disagree which of them is loaded. Download the one that you "
                "mean into a folder and give that."
            )
        return shards + adapter
    if SINGLE in names:
        return [SINGLE, *adapter]
    # Only the top folder: what lies in a subfolder is another model or another format.
    single = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    return single if len(single) == 1 and ADAPTER not in names else adapter


def _no_weights(reference: str, names: list[str]) -> str:
    """Returns the message for a repository without usable weights."""
    safe = [name for name in names if name.endswith(".safetensors")]
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if safe:
        return (
            f"{reference} holds {listed(safe)}, but no {SINGLE}, {WEIGHTS} or {INDEX} that says "
            "what belongs together."
        )
    if pickles:
        return (
            f"{reference} holds only pickle weights ({listed(pickles)}) and no safetensors. "
            "Pickles can run code when they are opened, so they are not fetched. Give a revision "
            "with safetensors, or, if you trust the source, convert them once with transformers' "
            "save_pretrained and give that folder."
        )
    contents = listed(sorted(names)) if names else "it is empty"
    return f"{reference} holds no safetensors weights ({contents})."


def blob_digests(folder: Path, names: list[str]) -> dict[str, str]:
    """Returns file name -> SHA-256 for the files that the cache names by it (large files).

    The snapshot's entry is a link to a blob; the blob's name is the SHA-256 of its content.
    """
    links = {
        name: (folder / name).readlink().name
        for name in sorted(names)
        if (folder / name).is_symlink()
    }
    # The cache names small files by Git's hash of 40 digits, which is no SHA-256.
    return {name: blob for name, blob in links.items() if _SHA256.fullmatch(blob)}
