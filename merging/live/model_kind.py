"""Says what a model is that cannot run as a causal language model, and what can be done with it.

Loss, benchmarks and the page need a model that predicts each token from those before it. What a
model is follows from its configuration and from transformers' own lists of classes by task, so
there is no list of architectures here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import LoadError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_TASK = "MODEL_FOR_", "_MAPPING_NAMES"
_CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
_MASKED = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
_BODY = "MODEL_MAPPING_NAMES"
_ANY_TASK = ("MODEL_FOR_PRETRAINING_MAPPING_NAMES", "MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES")
"""Lists that hold classes of several tasks."""


def refuse_other_kinds(folder: Path, config: PreTrainedConfig) -> None:
    """Refuses models that would load as a causal language model, and give meaningless losses.

    Raises:
        LoadError: an encoder-decoder model, of which only the decoder would run; or one that reads
            a text in both directions, and so sees the token that it is to predict.
    """
    if config.is_encoder_decoder:
        raise LoadError(f"{folder}: {_called(config)} is an encoder-decoder model. {_WHAT_TO_DO}")
    # GPT-NeoX has the key too, and is causal whatever it says; it has no masked variant.
    both = getattr(config, "is_decoder", True) is False and config.model_type in _classes(_MASKED)
    if both:
        raise LoadError(
            f"{folder}: {_called(config)} reads a text in both directions (config.json has no "
            f"is_decoder: true). {_WHAT_TO_DO}"
        )


def explained(folder: Path, config: PreTrainedConfig, otherwise: str) -> str:
    """Returns why a model could not be loaded: what it is, or `otherwise` if that says nothing.

    Args:
        folder: the model's folder.
        config: its configuration.
        otherwise: the message for a model that calls itself a causal language model, or nothing.
    """
    names = [str(name) for name in getattr(config, "architectures", None) or ()]
    if not names or any(name in _names(_CAUSAL) for name in names):
        return otherwise
    lists = [name for name in _lists() if name != _CAUSAL and _names(name) & set(names)]
    tasks = [name for name in lists if name not in (_BODY, *_ANY_TASK)]
    if _BODY in lists:
        kind = "a model without a head"
    elif tasks:
        words = tasks[0].removeprefix(_TASK[0]).removesuffix(_TASK[1])
        kind = f"a model for {words.replace('_', ' ').lower()}"
    else:
        kind = "no causal language model"
    return f"{folder}: {_called(config)} is {kind}. {_WHAT_TO_DO}"


_WHAT_TO_DO = (
    "Loss, benchmarks and the page need a causal language model. This one can be merged and "
    "exported all the same: dem merge RECIPE OUT."
)


def _called(config: PreTrainedConfig) -> str:
    """Returns the class of a model, as config.json names it, or else its type."""
    names = getattr(config, "architectures", None) or [config.model_type]
    return str(names[0])[:80]


def _lists() -> list[str]:
    """Returns the names of transformers' lists of classes by task."""
    from transformers.models.auto import modeling_auto

    return [name for name in vars(modeling_auto) if name.startswith("MODEL_") and "_NAMES" in name]


def _classes(name: str) -> dict[str, Any]:
    """Returns one of these lists: model_type -> its class, or several."""
    from transformers.models.auto import modeling_auto

    return dict(getattr(modeling_auto, name))


def _names(name: str) -> set[str]:
    """Returns the names of all classes of a list."""
    names: set[str] = set()
    for entry in _classes(name).values():
        names |= {entry} if isinstance(entry, str) else set(entry)
    return names
