"""Reads which base a model was trained on from the training.json that `dem train` left beside it.

{"base": {"name": "models/base", "identity": "9f2c…"}, …}. `identity` is the digest of the base's
weights (Checkpoint.digest). Earlier versions wrote a digest of samples, see `sampled_identity`.
"""

from pathlib import Path
from typing import NamedTuple

from merging.errors import CheckpointError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.sampled_digest import is_sampled, sampled_identity
from merging.inputs.strict_json import read_json
from merging.paths import exists

RECORD = "training.json"
"""Name of the file."""
_BYTES = 50_000_000


class TrainedOn(NamedTuple):
    """The base of a training."""

    name: str
    """Its path or hub id, as the plan had it."""
    identity: str
    """The digest of its weights."""


def trained_on(folder: Path) -> TrainedOn | None:
    """Returns the base that a model was trained on; None if its folder holds no record of it."""
    file = folder / RECORD
    if not exists(file):
        return None
    try:
        document = read_json(file, _BYTES, finite=False)
    # Another program may write a file of this name, so what cannot be read is no fault of the
    # model.
    except CheckpointError:
        return None
    base = document.get("base") if isinstance(document, dict) else None
    if not isinstance(base, dict):
        return None
    name, identity = base.get("name"), base.get("identity")
    if not (isinstance(name, str) and isinstance(identity, str) and identity):
        return None
    return TrainedOn(name, identity)


def has_identity(base: Checkpoint, identity: str) -> bool:
    """Returns whether a checkpoint has the identity that a record names.

    If it is of the kind that earlier versions wrote, only samples of the weights are compared.
    """
    if is_sampled(identity):
        return sampled_identity(base.path) == identity
    return base.digest == identity
