"""Warns if a vector was trained on another base than the one that it is added to.

An adapter's shapes fit every model of one architecture, so a wrong base raises no other error. What
a training leaves behind tells: the base's digest in training.json, and the base's name and revision
in adapter_config.json. Digests decide where there are any; names are compared where nothing else
can be, and that is said.
"""

import re
from pathlib import Path

from merging.errors import CheckpointError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.hub_model import HUB_ID
from merging.inputs.lora_vector import LoraVector
from merging.inputs.sampled_digest import same_weights
from merging.inputs.strict_json import read_json
from merging.inputs.vector import Vector
from merging.opening.stacked import Stacked
from merging.paths import ADAPTER, exists
from merging.preflight.problem import Problem
from merging.preflight.training_record import RECORD, has_identity, trained_on

_FIX = "Choose the base that it was trained on."
_LONGEST = 300
"""Characters of the longest name of a base that is taken for one."""


def trained_elsewhere(base: Checkpoint, vector: Vector, *, related: bool = True) -> list[Problem]:
    """Returns what tells that a vector was trained on another base.

    The list is empty if the training named this base, or named none.

    Args:
        base: Θ of the merge, as it is on disk; an adapter is compared with the base that it was
            opened on.
        vector: an adapter, or the vector of a full checkpoint.
        related: whether a full checkpoint should descend from this base. An adapter always should.
    """
    tuned = getattr(vector, "tuned", None)
    if isinstance(tuned, Stacked):
        # In slices, an adapter is read on its own model, whatever the base is.
        return trained_elsewhere(tuned.whose, tuned.adapter) if tuned.adapter else []
    adapter = isinstance(vector, LoraVector)
    base = vector.base if adapter and isinstance(vector.base, Checkpoint) else base
    if not (adapter or related):
        return []
    record = trained_on(vector.path) if vector.path else None
    if record is not None:
        if has_identity(base, record.identity):
            return []
        result = (
            "Results will be wrong."
            if adapter
            else "Its vector is then the difference of two bases, and what it learnt."
        )
        return [
            _warning(
                vector,
                f"was trained on {_shown(record.name)} with digest {record.identity[:12]}… "
                f"({RECORD}); the recipe's base {base.path} has other weights. {result}",
            )
        ]
    return _named_elsewhere(base, vector) if isinstance(vector, LoraVector) else []


def _named_elsewhere(base: Checkpoint, vector: LoraVector) -> list[Problem]:
    """Returns a warning if adapter_config.json names another base than the recipe does."""
    named = vector.base_model.rstrip("/")
    if not (_last_part(named) and named.isprintable() and len(named) <= _LONGEST):
        return []
    what = f"was trained on {named} ({ADAPTER}); the recipe's base is {base.path}."
    if exists(Path(named)):
        try:
            if Path(named).resolve() == base.path.resolve() or _same(Checkpoint(named), base):
                return []
            return [_warning(vector, f"{what} Results will be wrong: their weights differ.")]
        except CheckpointError:
            pass  # there is something else now, so the name is all that is known
    repository = _repository(base)
    # A folder may be a link to one with a telling name, or the other way round.
    own = [repository] if repository else [base.path.name, base.path.resolve().name]
    if any(_same_name(named, name) for name in own):
        return _other_revision(base, vector)
    origin = base.config.get("_name_or_path")
    unclear = "Whether the two have the same weights cannot be compared here"
    # A copy under another organisation's name, or a base that says what it was made from.
    near = [*own, *([origin] if isinstance(origin, str) and not repository else [])]
    if any(_last_part(named) == _last_part(name) for name in near):
        return [Problem("info", vector.name, f"{vector.name} {what} {unclear}.")]
    return [_warning(vector, f"{what} {unclear}, and results will be wrong if they differ.")]


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    """Returns whether two checkpoints have the same weights, perhaps in other files."""
    # Samples of files of other sizes say nothing, and a digest reads everything.
    if [file.size for file in one.files] != [file.size for file in other.files]:
        return one.digest == other.digest
    return same_weights(one, other)


def _other_revision(base: Checkpoint, vector: LoraVector) -> list[Problem]:
    """Returns a warning if the adapter names another revision of a base that came from the hub."""
    document = read_json((vector.path or Path()) / ADAPTER)
    revision = document.get("revision") if isinstance(document, dict) else None
    commit = base.path.name
    # `main` is what is newest, then and now: it names no weights.
    if not _repository(base) or not isinstance(revision, str) or revision in ("", "main", commit):
        return []
    if not HUB_ID.fullmatch(f"{_repository(base)}@{revision}"):
        return []
    # The cache notes the commit of each branch and tag that was asked for.
    note = base.path.parent.parent / "refs" / revision
    noted = note.read_text("utf-8", errors="replace").strip() if exists(note) else ""
    if noted == commit:
        return []
    message = (
        f"was trained on revision {revision} of {_repository(base)} ({ADAPTER}); the recipe's base "
        f"is commit {commit[:12]}. Results will be wrong if their weights differ."
    )
    return [_warning(vector, message)]


def _shown(name: str) -> str:
    """Returns a name from a stranger's file so that it stays in its line of a message."""
    return name[:_LONGEST] if name.isprintable() else repr(name)[:_LONGEST]


def _warning(vector: Vector, message: str) -> Problem:
    return Problem("warning", vector.name, f"{vector.name} {message}", _FIX)


def _repository(base: Checkpoint) -> str:
    """Returns `org/name` of a base in the hub's cache; empty for any other folder."""
    # models--org--name/snapshots/COMMIT
    parts = base.path.parent.parent.name.split("--")
    cached = base.path.parent.name == "snapshots" and parts[0] == "models" and len(parts) == 3
    return "/".join(parts[1:]) if cached else ""


def _same_name(one: str, other: str) -> bool:
    """Returns whether two names may be of one model: hub ids as a whole, paths by their last part.

    >>> _same_name("org/Llama-3-8B", "/models/llama3_8b"), _same_name("org/llama", "my/llama")
    (True, False)
    """
    if HUB_ID.fullmatch(one) and HUB_ID.fullmatch(other):
        return one.casefold() == other.casefold()
    return _last_part(one) == _last_part(other)


def _last_part(name: str) -> str:
    """Returns the last part of a name without what people write differently."""
    last = re.split(r"[/\\]", name)[-1].partition("@")[0]
    return re.sub(r"[\W_]", "", last).casefold()
