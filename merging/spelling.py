"""Gives the tensor names that mean one tensor in old and new files one spelling.

Names differ inside if a file was written by an old version of transformers, which reads it still,
or from a model that torch had wrapped. For what belongs to an architecture, transformers is asked.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Spelling = Callable[[str], str]
"""Returns the common spelling of a name."""

# What torch inserts into names when it wraps a module: torch.compile, FSDP, activation
# checkpointing.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

# The names of all models that transformers renames when it loads them: "legacy" in
# transformers.conversion_mapping (5.23). Until version 4 it did so for any `gamma` and `beta`.
_ENDS = {
    "gamma": "weight",
    "beta": "bias",
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


def spellings(config: Mapping[str, Any]) -> Iterator[tuple[Spelling, str]]:
    """Yields spellings to try, with the words that say whose they are."""
    yield spelled, ""
    renamers = _transformers_renamings(config)

    def as_loaded(name: str) -> str:
        name = spelled(name)
        for renamer in renamers:
            name = renamer.rename_source_key(name)[0]
        return name

    if renamers:
        yield as_loaded, ", as transformers does on loading"


def spelled(name: str) -> str:
    """Returns a name as transformers spells it today, without the components that torch inserts.

    >>> spelled("_orig_mod.encoder.LayerNorm.gamma")
    'encoder.LayerNorm.weight'
    """
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    return ".".join([*parts[:-1], _ENDS.get(parts[-1], parts[-1])]) if parts else name


def _transformers_renamings(config: Mapping[str, Any]) -> list[Any]:
    """Returns the renamings that transformers applies when it loads such a model.

    They belong to an architecture or a model type, also of a part such as the vision tower.
    """
    kinds: dict[str, None] = {}
    parts = [config]
    while parts:  # no recursion: a stranger's file may be nested as deep as its reader allows
        part = parts.pop()
        classes = part.get("architectures")
        named = [*(classes if isinstance(classes, list) else []), part.get("model_type")]
        kinds |= dict.fromkeys(kind for kind in named if isinstance(kind, str))
        parts += [inner for inner in part.values() if isinstance(inner, Mapping)]
    if not kinds:
        return []
    # Here, because importing it takes seconds, and nearly all checkpoints have their base's names.
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    return [
        renaming
        for kind in kinds
        for renaming in get_checkpoint_conversion_mapping(kind) or ()
        if isinstance(renaming, WeightRenaming)
    ]
