"""A hub id with a revision -> a local folder: `org/name@revision`. The only door to huggingface_hub.

Only what a merge and its export read is fetched: safetensors, JSON and the tokenizer's side files of the top folder.
Pickles and code are never fetched. The cache is the one that the ecosystem shares (HF_HOME, HF_HUB_CACHE), so a model
that another tool has downloaded is not downloaded again, and a commit that is there complete needs no network.

A connection that breaks is taken up where it broke, to 10 MiB. After the process itself was ended, finished files are kept
and an unfinished one begins again: huggingface_hub 2.4 leaves no part of it behind.
"""

import glob
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from merging.adapter import WEIGHTS
from merging.checkpoint import ADAPTER, INDEX, SINGLE, exists
from merging.errors import CheckpointError, listed
from merging.safetensors_header import read_index

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, from several threads in turn. May raise an error of its own to cancel."""

# What the hub allows in a name (huggingface_hub's validate_repo_id), with the organisation that only old models lack. A
# revision is a branch, tag or commit; without +, which begins an adapter in a recipe.
_NAME = r"\w([\w.-]{0,94}\w)?"
_ID = re.compile(
    rf"(?!.*\.\.)(?![^@]*--)(?P<repo>{_NAME}/{_NAME})(?<!\.git)(@(?P<revision>\w[\w.-]*(/\w[\w.-]*)*))?", re.ASCII
)
_SIDE_FILES = re.compile(
    r"[^/]+\.(json|jinja|tiktoken)|additional_chat_templates/[^/]+\.jinja|(tokenizer|spiece|sentencepiece\.bpe)\.model"
    r"|(merges|vocab)\.txt|(LICENSE|NOTICE|USE_POLICY)(\.md|\.txt)?"
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


class Fetched(NamedTuple):
    """A model of the hub on this disk."""

    folder: Path
    """The snapshot in the cache: open it as any folder, never write to it."""
    commit: str
    """The commit that the revision stood for, 40 hex digits."""
    sha256: Mapping[str, str]
    """File name -> SHA-256 of the whole file, where the cache names it by that (large files)."""


def is_hub_id(reference: str) -> bool:
    """Whether a reference is to be looked up on the hub: `org/name` or `org/name@revision`, and nothing here has that name.

    >>> is_hub_id("org/name@v1.0"), is_hub_id("./org/name"), is_hub_id("name")
    (True, False, False)
    """
    return _ID.fullmatch(reference) is not None and not exists(Path(reference))


def locate(reference: str, progress: Progress | None = None) -> Path:
    """The folder of a reference as written: what is here, else a model of the hub, else the path as it is.

    Raises:
        CheckpointError: as fetch.
    """
    return fetch(reference, progress=progress).folder if is_hub_id(reference) else Path(reference)


def fetch(
    reference: str,
    *,
    progress: Progress | None = None,
    offline: bool = False,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
) -> Fetched:
    """Download what is missing of a model and say where it is.

    Args:
        reference: `org/name`, or `org/name@revision` with a branch, a tag or a full commit hash.
        progress: see Progress.
        offline: take it from the cache or fail; HF_HUB_OFFLINE=1 has the same effect.
        endpoint, cache_dir: the hub's address and the cache; HF_ENDPOINT and HF_HUB_CACHE if not given.

    Raises:
        CheckpointError: for a text that is no id, an unknown model or revision, no permission, no network, or a model
            without safetensors weights. Found out before any weights are downloaded.
    """
    match = _ID.fullmatch(reference)
    if match is None:
        raise CheckpointError(f"{reference!r} is not the id of a model, expected org/name or org/name@revision.")
    from huggingface_hub import constants, snapshot_download

    repo, revision = match["repo"], match["revision"] or constants.DEFAULT_REVISION
    host, cache = endpoint or constants.ENDPOINT, Path(cache_dir or constants.HF_HUB_CACHE)
    download = partial(snapshot_download, repo, local_files_only=offline, endpoint=endpoint, cache_dir=cache)

    def snapshot(revision: str, names: list[str], meter: type[Any]) -> Path:
        patterns = [glob.escape(name) for name in names]
        with _explained(reference, repo, revision, host, cache):
            return Path(download(revision=revision, allow_patterns=patterns, tqdm_class=meter))

    folder = snapshot(revision, ["config.json", ADAPTER, INDEX], _meter(None, 0))
    sizes = _listing(repo, folder, cache)
    files = _wanted(reference, folder, list(sizes) if sizes is not None else None)
    if sizes is not None:
        total = sum(sizes[name] for name in files if not exists(folder / name))
        snapshot(folder.name, files, _meter(progress, total))
        if progress and total:
            progress(total, total)  # of a file that another commit shares no byte was reported
    return Fetched(folder, folder.name, _digests(folder, files))


def _listing(repo: str, folder: Path, cache: Path) -> dict[str, int] | None:
    """The files of a commit and their bytes; None for a snapshot that another tool made, whose list was never kept."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return {file.path: file.size for file in get_cached_repo_tree(repo, revision=folder.name, cache_dir=cache)}
    except CachedRepoTreeNotFoundError:
        return None


def _wanted(reference: str, folder: Path, listing: list[str] | None) -> list[str]:
    """The files to have of a commit's, or of those in the snapshot where the commit's are not known."""
    here = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    names = here if listing is None else listing
    weights = _weights(reference, folder, names)
    missing = [name for name in weights if name not in names]
    if weights and not missing:
        return [*weights, *(name for name in names if _SIDE_FILES.fullmatch(name))]
    if listing is None:
        raise CheckpointError(
            f"{reference}: the cache holds only a part of it ({folder}), and the network is switched off or does not "
            "answer. Fetch it once with the network on, or give a folder."
        )
    if missing:
        raise CheckpointError(
            f"{reference}: {INDEX} names {listed(missing)}, which are not there. Give another revision."
        )
    raise CheckpointError(_no_weights(reference, [name for name in names if "/" not in name]))


def _weights(reference: str, folder: Path, names: list[str]) -> list[str]:
    """What Checkpoint and LoraVector would read; empty where they would refuse."""
    adapter = [WEIGHTS] if ADAPTER in names and WEIGHTS in names else []
    if INDEX in names:
        shards = sorted(set(read_index(folder / INDEX).values()))
        if SINGLE in names and SINGLE not in shards:
            raise CheckpointError(
                f"{reference} holds {SINGLE} and shards with an index: two models in one repository, and tools disagree "
                "which of them is loaded. Download the one that you mean into a folder and give that."
            )
        return shards + adapter
    if SINGLE in names:
        return [SINGLE, *adapter]
    found = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    return found if len(found) == 1 and ADAPTER not in names else adapter


def _no_weights(reference: str, names: list[str]) -> str:
    safe = [name for name in names if name.endswith(".safetensors")]
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if safe:
        return (
            f"{reference} holds {listed(safe)}, but no {SINGLE}, {WEIGHTS} or {INDEX} that says what belongs together."
        )
    if pickles:
        return (
            f"{reference} holds only pickle weights ({listed(pickles)}) and no safetensors. Pickles can run code when "
            "they are opened, so they are not fetched. Give a revision with safetensors, or, where you trust the "
            "source, convert them once with transformers' save_pretrained and give that folder."
        )
    return f"{reference} holds no safetensors weights ({listed(sorted(names)) if names else 'it is empty'})."


def _digests(folder: Path, names: list[str]) -> dict[str, str]:
    """The cache keeps a large file under its SHA-256, and the snapshot's entry is a link to it."""
    links = {name: (folder / name).readlink().name for name in sorted(names) if (folder / name).is_symlink()}
    return {name: blob for name, blob in links.items() if _SHA256.fullmatch(blob)}


def _meter(progress: Progress | None, total: int) -> type[Any]:
    """A progress bar of huggingface_hub that draws nothing and reports the bytes of all files together."""
    from huggingface_hub.utils.tqdm import tqdm

    lock, done = Lock(), 0

    class Meter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # Of the three bars of a snapshot (files, bytes received, bytes written) this is the last.
            self.counts = options.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            if progress and self.counts:
                with lock:
                    done += int(n or 0)
                    progress(done, total)

    return Meter


@contextmanager
def _explained(reference: str, repo: str, revision: str, host: str, cache: Path) -> Iterator[None]:
    """What huggingface_hub raises, as one message that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    # HTTPError is the client's own: httpx's in huggingface_hub 1, httpx2's in 2. A bare RuntimeError comes from the Xet
    # client, and from a thread whose connection another one has just given up.
    except (errors.HTTPError, OSError, RuntimeError) as error:  # type: ignore[attr-defined]
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
            raise
        # "Not found here" comes with the reason for which the hub could not be asked, if it was asked.
        found = (error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None) or error
        raise CheckpointError(_explain(found, reference, (repo, revision), host, cache)) from None


def _explain(error: BaseException, reference: str, model: tuple[str, str], host: str, cache: Path) -> str:
    from huggingface_hub import errors

    repo, revision = model
    absent = f"{reference} is no folder here and not complete in the cache ({cache})"
    match error:
        case errors.GatedRepoError():
            return f"{repo} is gated: ask for access at {host}/{repo} with your account, then {_LOG_IN}."
        case errors.RepositoryNotFoundError():
            seen = f"{reference} is no folder here, and {host} has no model {repo} that you may see."
            return f"{seen} Check the name; if it is private, {_LOG_IN}."
        case errors.RevisionNotFoundError():
            return f"{repo} has no revision {revision!r} at {host}, expected a branch, a tag or a full commit hash."
        case errors.HfHubHTTPError(response=reply) if reply.status_code in (401, 403):
            return f"{host} does not let you read {repo} (status {reply.status_code}): {_LOG_IN}."
        case errors.HfHubHTTPError(response=reply):
            return f"{absent}, and {host} answered with status {reply.status_code}. Try again later."
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return f"{absent}, and the network is switched off (HF_HUB_OFFLINE). Fetch it once with the network on."
        case OSError():
            return f"{reference} could not be fetched into {cache}: {error}. See to the disk and run the same again."
    return (
        f"{absent}, and {host} cannot be reached or broke off ({error or type(error).__name__}). Check the network and run "
        "the same again: finished files are kept."
    )
