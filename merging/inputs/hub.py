"""Downloads a model of the hub (`org/name@revision`) and returns its local folder.

This is the only module that uses huggingface_hub. It fetches only what a merge and its export
read: safetensors, and what belongs to a copy of the model (merging.folder_files); never pickles or
code.
It uses the normal Hugging Face cache (HF_HOME, HF_HUB_CACHE). A model that another tool downloaded
is not downloaded again, and a complete cached commit works offline.

If a connection breaks, the download continues within 10 MiB of where it stopped. If the process
itself ends, finished files are kept and an unfinished file starts again, because huggingface_hub
2.4 leaves no part of it behind.
"""

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from merging.errors import CheckpointError
from merging.inputs.hub_files import TELLING, blob_digests, files_to_fetch
from merging.inputs.hub_model import HUB_ID, HubModel
from merging.paths import exists

Progress = Callable[[int, int], None]
"""Called with bytes done and total bytes, by several threads, one at a time.

It may raise an error of its own to cancel the download.
"""

PATIENCE = 3
"""Seconds to wait for the hub's answer about a cached model; HF_HUB_ETAG_TIMEOUT if not cached."""
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


class Fetched(NamedTuple):
    """A model of the hub in the local cache."""

    folder: Path
    """The snapshot in the cache: open it like any model folder, and never write to it."""
    commit: str
    """The commit that the revision resolved to, 40 hex digits."""
    sha256: Mapping[str, str]
    """File name -> SHA-256 of the whole file, for files that the cache names by it (large ones)."""


def is_hub_id(reference: str) -> bool:
    """Returns whether a reference is a hub id: `org/name` or `org/name@revision`.

    If a local file or folder has the same name, the reference is local.

    >>> is_hub_id("org/name@v1.0"), is_hub_id("./org/name"), is_hub_id("name")
    (True, False, False)
    """
    return HUB_ID.fullmatch(reference) is not None and not exists(Path(reference))


def locate(reference: str, progress: Progress | None = None) -> Path:
    """Returns the folder of a reference; downloads it first if it is a hub id.

    A reference that is neither local nor a hub id is returned as a path, which may not exist.

    Raises:
        CheckpointError: as fetch does.
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
    """Downloads the missing files of a model and returns its snapshot in the cache.

    Args:
        reference: `org/name`, or `org/name@revision` with a branch, a tag or a full commit hash.
        progress: see Progress.
        offline: use only the cache; HF_HUB_OFFLINE=1 has the same effect.
        endpoint: the hub's address; HF_ENDPOINT if not given.
        cache_dir: the cache folder; HF_HUB_CACHE if not given.

    Raises:
        CheckpointError: if the reference is not a hub id, the model or revision is unknown or not
            permitted, there is no network, or the model has no safetensors weights. It is raised
            before any weights are downloaded.
    """
    model = _with_latest_commit(_parse(reference, endpoint, cache_dir, offline))
    folder, files, sizes = _fetch_small_files(model)
    if sizes is not None:
        total = sum(sizes[name] for name in files if not exists(folder / name))
        _download(model._replace(revision=folder.name), files, _meter(progress, total))
        # Files that another commit already brought to the cache report no bytes, so report the end.
        if progress and total:
            progress(total, total)
    return Fetched(folder, folder.name, blob_digests(folder, files))


def probe(
    reference: str, *, endpoint: str | None = None, cache_dir: str | Path | None = None
) -> None:
    """Raises the error that `locate` would raise, without downloading weights.

    Does nothing if the reference is not a hub id.

    Args:
        reference: a reference as `locate` takes it.
        endpoint, cache_dir: as in fetch.

    Raises:
        CheckpointError: as fetch does.
    """
    if is_hub_id(reference):
        _fetch_small_files(_with_latest_commit(_parse(reference, endpoint, cache_dir)))


def _parse(
    reference: str, host: str | None, cache: str | Path | None, offline: bool = False
) -> HubModel:
    match = HUB_ID.fullmatch(reference)
    if match is None:
        raise CheckpointError(
            f"{reference!r} is not a hub id, expected org/name or org/name@revision."
        )
    from huggingface_hub import constants

    revision = match["revision"] or constants.DEFAULT_REVISION
    folder = Path(cache or constants.HF_HUB_CACHE).expanduser()
    return HubModel(reference, match["repo"], revision, host or constants.ENDPOINT, folder, offline)


def _with_latest_commit(model: HubModel) -> HubModel:
    """Asks the hub once for the revision's commit, and falls back to the cache if it is silent.

    The question has a time limit. huggingface_hub 2.4 asks about a branch without any limit, and
    asks six times in 23 s for the list of a commit's files, before it uses the cache.
    """
    from huggingface_hub import HfApi, constants, errors

    commit, limit = model.cached_commit(), constants.HF_HUB_ETAG_TIMEOUT
    # A commit never changes, so a complete one needs no question.
    complete = commit == model.revision and _cached_listing(model, commit) is not None
    if model.offline or constants.HF_HUB_OFFLINE or complete:
        return model
    try:
        timeout = min(PATIENCE, limit) if commit else limit
        latest = (
            HfApi(endpoint=model.host)
            .model_info(model.repo, revision=model.revision, timeout=timeout)
            .sha
        )
    except errors.HTTPError as error:  # type: ignore[attr-defined]
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500:
            return model  # the download gets the same answer, or the cache serves it
        if commit is None:
            raise CheckpointError(_explain(error, model)) from None
        return model._replace(revision=commit, offline=True, unreachable=error)
    # A cached commit needs no second question. For a branch that has moved, the revision stays as
    # it is: the download then notes the new commit in the cache.
    return model._replace(revision=commit) if commit and latest == commit else model


def _fetch_small_files(model: HubModel) -> tuple[Path, list[str], dict[str, int] | None]:
    """Fetches the files that say which weights a model has.

    Returns the snapshot's folder, the names of the files to fetch, and the size in bytes of every
    file of the commit (None if the cache does not have this list).
    """
    folder = _download(model, TELLING, _meter(None, 0))
    sizes = _cached_listing(model, folder.name)
    names = files_to_fetch(model.reference, folder, sizes)
    return folder, names, sizes


def _download(model: HubModel, names: Sequence[str], meter: type[Any]) -> Path:
    from huggingface_hub import snapshot_download

    with _readable_errors(model):
        folder = snapshot_download(
            model.repo,
            revision=model.revision,
            allow_patterns=[glob.escape(name) for name in names],
            local_files_only=model.offline,
            endpoint=model.host,
            cache_dir=model.cache,
            tqdm_class=meter,
        )
    return Path(folder)


def _cached_listing(model: HubModel, commit: str) -> dict[str, int] | None:
    """Returns the files of a commit and their sizes in bytes.

    None if the snapshot was made by another tool, which did not keep this list.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        files = get_cached_repo_tree(model.repo, revision=commit, cache_dir=model.cache)
    except CachedRepoTreeNotFoundError:
        return None
    return {file.path: file.size for file in files}


def _meter(progress: Progress | None, total: int) -> type[Any]:
    """Returns a progress bar class for huggingface_hub that only calls `progress`."""
    from huggingface_hub.utils.tqdm import tqdm

    lock, done = Lock(), 0

    class Meter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # A snapshot has three bars: files, bytes received, bytes written. Only the last one,
            # which has this name, counts bytes on this disk.
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
def _readable_errors(model: HubModel) -> Iterator[None]:
    """Turns the errors of huggingface_hub into a CheckpointError that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    # HTTPError is the HTTP client's: httpx's in huggingface_hub 1, httpx2's in 2. A bare
    # RuntimeError comes from the Xet client, and from a thread whose connection another thread has
    # just closed. Subclasses of RuntimeError are bugs or the caller's own, so they pass.
    except (errors.HTTPError, OSError, RuntimeError) as error:  # type: ignore[attr-defined]
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
            raise
        # "Not in the cache" is only the consequence if the hub was asked and did not answer: then
        # the reason is reported.
        reason = None
        if isinstance(error, errors.LocalEntryNotFoundError):
            reason = error.__cause__ or model.unreachable
        raise CheckpointError(_explain(reason or error, model)) from None


def _explain(error: BaseException, model: HubModel) -> str:
    """Returns what went wrong with a download, and what to do."""
    from huggingface_hub import errors

    reference, repo, revision, host, cache = model[:5]
    absent = f"{reference} is not a folder here and not complete in the cache ({cache})"
    match error:
        case errors.GatedRepoError():
            return (
                f"{repo} is gated: ask for access at {host}/{repo} with your account, "
                f"then {_LOG_IN}."
            )
        case errors.RepositoryNotFoundError():
            return (
                f"{reference} is not a folder here, and {host} has no model {repo} that you may "
                f"see. Check the name; if it is private, {_LOG_IN}."
            )
        case errors.RevisionNotFoundError():
            return (
                f"{repo} has no revision {revision!r} at {host}, expected a branch, a tag or a "
                "full commit hash."
            )
        case errors.HfHubHTTPError(response=reply) if reply.status_code in (401, 403):
            return f"{host} does not let you read {repo} (status {reply.status_code}): {_LOG_IN}."
        case errors.HfHubHTTPError(response=reply):
            return (
                f"{absent}, and {host} answered with status {reply.status_code}. Try again later."
            )
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return (
                f"{absent}, and the network is switched off (HF_HUB_OFFLINE). Fetch it once with "
                "the network on."
            )
        case OSError():
            return (
                f"{reference} could not be downloaded into {cache}: {error}. Check the disk and "
                "run the same command again."
            )
    return (
        f"{absent}, and {host} cannot be reached or the connection broke "
        f"({error or type(error).__name__}). Check the network and run the same command again: "
        "finished files are kept."
    )
