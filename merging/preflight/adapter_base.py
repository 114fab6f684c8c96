"""Warns if an adapter was trained on another base than the one it is merged into.

An adapter's shapes fit every model of one architecture, so a wrong base raises no other error. The
only trace is base_model_name_or_path in adapter_config.json.
"""

from pathlib import Path

from merging.errors import CheckpointError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.lora_vector import LoraVector
from merging.paths import ADAPTER, exists
from merging.preflight.problem import Problem


def trained_elsewhere(base: Checkpoint, vector: LoraVector) -> list[Problem]:
    """Returns a warning if the adapter names another base, and that base has other weights.

    The list is empty if the named base cannot be compared: if it is a hub id, a path that does not
    exist here, or a folder that cannot be opened. It is also empty if both folders hold the same
    weights.

    Args:
        base: Θ of the merge.
        vector: the adapter, opened on it.
    """
    named = vector.base_model
    if not named or not exists(Path(named)) or Path(named).resolve() == base.path.resolve():
        return []
    try:
        same_weights = Checkpoint(named).digest == base.digest
    except CheckpointError:
        return []
    if same_weights:
        return []
    message = (
        f"{vector.name} was trained on {named} ({ADAPTER}); the recipe's base is {base.path}. "
        "Results will be wrong if these differ."
    )
    return [Problem("warning", vector.name, message, "Choose the base that it was trained on.")]
