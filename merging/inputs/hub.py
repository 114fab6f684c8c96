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
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from merging.errors import CheckpointError
from merging.inputs.hub_files import digests, wanted
from merging.paths import ADAPTER, INDEX, exists

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, from several threads in turn. May raise an error of its own to cancel."""

# What the hub allows in a name (huggingface_hub's validate_repo_id), with the organisation that only old models lack. A
# revision is a branch, tag or commit; without +, which begins an adapter in a recipe.
_NAME = r"\w([\w.-]{0,94}\w)?"
_ID = re.compile(
    rf"(?!.*\.\.)(?![^@]*--)(?P<repo>{_NAME}/{_NAME})(?<!\.git)(@(?P<revision>\w[\w.-]*(/\w[\w.-]*)*))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE = 3
"""Seconds for which a hub is waited for that is asked about a model in the cache; HF_HUB_ETAG_TIMEOUT where it is not there."""
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
    source = _asked(_Source.of(reference, endpoint, cache_dir, offline))
    folder, files, sizes = _known(source)
    if sizes is not None:
        total = sum(sizes[name] for name in files if not exists(folder / name))
        _download(source._replace(revision=folder.name), files, _meter(progress, total))
        if progress and total:
            progress(total, total)  # of a file that another commit shares no byte was reported
    return Fetched(folder, folder.name, digests(folder, files))


def probe(
    reference: str, *, endpoint: str | None = None, cache_dir: str | Path | None = None
) -> None:
    """Raise what locate would raise before it downloads weights; a reference to no model of the hub raises nothing.

    Args:
        reference: as locate takes it.
        endpoint, cache_dir: as fetch.
    """
    if is_hub_id(reference):
        _known(_asked(_Source.of(reference, endpoint, cache_dir)))


class _Source(NamedTuple):
    """What is asked for, and where."""

    reference: str
    repo: str
    revision: str
    host: str
    cache: Path
    offline: bool
    why: BaseException | None = None
    """Why only the cache is looked at, where the hub was asked and did not answer."""

    @classmethod
    def of(
        cls, reference: str, host: str | None, cache: str | Path | None, offline: bool = False
    ) -> "_Source":
        match = _ID.fullmatch(reference)
        if match is None:
            raise CheckpointError(
                f"{reference!r} is not the id of a model, expected org/name or org/name@revision."
            )
        from huggingface_hub import constants

        revision = match["revision"] or constants.DEFAULT_REVISION
        place = Path(cache or constants.HF_HUB_CACHE).expanduser()
        return cls(reference, match["repo"], revision, host or constants.ENDPOINT, place, offline)

    def cached(self) -> str | None:
        """The commit that the revision stood for when the hub was last asked, where a snapshot of it is in the cache."""
        folder = self.cache / f"models--{self.repo.replace('/', '--')}"
        ref = folder / "refs" / self.revision
        commit = ref.read_text(errors="replace") if ref.is_file() else self.revision
        return (
            commit
            if _COMMIT.fullmatch(commit) and (folder / "snapshots" / commit).is_dir()
            else None
        )


def _asked(source: _Source) -> _Source:
    """The source as far as the hub can be reached: asked once, with a limit on the time.

    huggingface_hub 2.4 asks about a branch without any limit, and for the list of a commit's files six times in 23 s,
    before it takes what is in the cache.
    """
    from huggingface_hub import HfApi, constants, errors

    commit, limit = source.cached(), constants.HF_HUB_ETAG_TIMEOUT
    complete = (
        commit == source.revision and _listing(source, commit) is not None
    )  # such a commit is never asked about
    if source.offline or constants.HF_HUB_OFFLINE or complete:
        return source
    try:
        timeout = min(PATIENCE, limit) if commit else limit
        latest = (
            HfApi(endpoint=source.host)
            .model_info(source.repo, revision=source.revision, timeout=timeout)
            .sha
        )
    except errors.HTTPError as error:  # type: ignore[attr-defined]
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500:
            return source  # the download is answered the same, unless the cache serves it
        if commit is None:
            raise CheckpointError(_explain(error, source)) from None
        return source._replace(revision=commit, offline=True, why=error)
    # A commit that the cache knows needs no second answer; a branch that has moved is noted there by the download.
    return source._replace(revision=commit) if commit and latest == commit else source


def _known(source: _Source) -> tuple[Path, list[str], dict[str, int] | None]:
    """All of a model but its weights: its folder, the files to have, and the bytes of each file that the commit has."""
    folder = _download(source, ["config.json", ADAPTER, INDEX], _meter(None, 0))
    sizes = _listing(source, folder.name)
    return folder, wanted(source.reference, folder, None if sizes is None else list(sizes)), sizes


def _download(source: _Source, names: list[str], meter: type[Any]) -> Path:
    from huggingface_hub import snapshot_download

    with _explained(source):
        folder = snapshot_download(
            source.repo,
            revision=source.revision,
            allow_patterns=[glob.escape(name) for name in names],
            local_files_only=source.offline,
            endpoint=source.host,
            cache_dir=source.cache,
            tqdm_class=meter,
        )
    return Path(folder)


def _listing(source: _Source, commit: str) -> dict[str, int] | None:
    """The files of a commit and their bytes; None for a snapshot that another tool made, whose list was never kept."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        files = get_cached_repo_tree(source.repo, revision=commit, cache_dir=source.cache)
    except CachedRepoTreeNotFoundError:
        return None
    return {file.path: file.size for file in files}


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
def _explained(source: _Source) -> Iterator[None]:
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
        found = (
            error.__cause__ or source.why
            if isinstance(error, errors.LocalEntryNotFoundError)
            else None
        ) or error
        raise CheckpointError(_explain(found, source)) from None


def _explain(error: BaseException, source: _Source) -> str:
    from huggingface_hub import errors

    reference, repo, revision, host, cache = source[:5]
    absent = f"{reference} is no folder here and not complete in the cache ({cache})"
    match error:
        case errors.GatedRepoError():
            return f"{repo} is gated: ask for access at {host}/{repo} with your account, then {_LOG_IN}."
        case errors.RepositoryNotFoundError():
            seen = (
                f"{reference} is no folder here, and {host} has no model {repo} that you may see."
            )
            return f"{seen} Check the name; if it is private, {_LOG_IN}."
        case errors.RevisionNotFoundError():
            return f"{repo} has no revision {revision!r} at {host}, expected a branch, a tag or a full commit hash."
        case errors.HfHubHTTPError(response=reply) if reply.status_code in (401, 403):
            return f"{host} does not let you read {repo} (status {reply.status_code}): {_LOG_IN}."
        case errors.HfHubHTTPError(response=reply):
            return (
                f"{absent}, and {host} answered with status {reply.status_code}. Try again later."
            )
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return f"{absent}, and the network is switched off (HF_HUB_OFFLINE). Fetch it once with the network on."
        case OSError():
            return f"{reference} could not be fetched into {cache}: {error}. See to the disk and run the same again."
    return (
        f"{absent}, and {host} cannot be reached or broke off ({error or type(error).__name__}). Check the network and run "
        "the same again: finished files are kept."
    )
