"""A hub id as a caller gives it: parsed, with the hub's address and the cache folder."""

import re
from pathlib import Path
from typing import NamedTuple

# The names that the hub allows (huggingface_hub's validate_repo_id), always with an organisation,
# which only old models lack: a bare name is a folder. A revision is a branch, a tag or a commit.
# It has no `+`, because `+` begins an adapter in a recipe.
_NAME = r"\w([\w.-]{0,94}\w)?"
HUB_ID = re.compile(
    rf"(?!.*\.\.)(?![^@]*--)(?P<repo>{_NAME}/{_NAME})(?<!\.git)"
    r"(@(?P<revision>\w[\w.-]*(/\w[\w.-]*)*))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubModel(NamedTuple):
    """The model to fetch, and the hub and cache to use."""

    reference: str
    """The hub id as given, for messages."""
    repo: str
    """`org/name`."""
    revision: str
    """A branch, a tag or a full commit hash."""
    host: str
    """The hub's address."""
    cache: Path
    """The cache folder."""
    offline: bool
    """Use only the cache."""
    unreachable: BaseException | None = None
    """The error with which the hub did not answer, so that only the cache is used; else None."""

    def cached_commit(self) -> str | None:
        """Returns the commit that the revision had at the hub's last answer.

        None if the cache has no snapshot of that commit.
        """
        folder = self.cache / f"models--{self.repo.replace('/', '--')}"
        ref = folder / "refs" / self.revision
        commit = ref.read_text(errors="replace") if ref.is_file() else self.revision
        return (
            commit
            if _COMMIT.fullmatch(commit) and (folder / "snapshots" / commit).is_dir()
            else None
        )
