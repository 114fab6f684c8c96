"""The model that a configuration describes: its class in transformers, and its parameters.

transformers is imported only when a model is really asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def model_classes(config: PreTrainedConfig) -> list[type[PreTrainedModel]]:
    """Returns the classes of transformers that a configuration can mean, the best one first.

    Those that it names itself come first. A configuration that names none is of the first kind that
    transformers knows for its model type.
    """
    import transformers

    names = list(config.architectures or ())
    names += [kind[config.model_type] for kind in _kinds() if config.model_type in kind]
    found = [getattr(transformers, name, None) for name in names if isinstance(name, str)]
    # Any name of the library may be written there, and only a model is called.
    return [
        each
        for each in found
        if isinstance(each, type) and issubclass(each, transformers.PreTrainedModel)
    ]


def layers_of(config: PreTrainedConfig) -> int:
    """Returns the number of layers that a configuration names; 0 if it names none.

    Even an empty model has objects for every layer, and a stranger may have written any number, so
    it is compared with the tensors in the files before `empty_model`.
    """
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    return layers if isinstance(layers, int) else 0


def empty_model(config: PreTrainedConfig) -> Any:
    """Returns the model that a configuration describes, without memory for weights.

    Raises:
        Exception: of any kind, as the architecture's own code raises it for an untrusted document.
    """
    import torch

    with torch.device("meta"):
        return model_classes(config)[0](config)


def _kinds() -> tuple[Mapping[str, str], ...]:
    """Returns transformers' tables of model type -> class, those of models that write first."""
    from transformers.models.auto import modeling_auto as auto

    return (
        auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        auto.MODEL_MAPPING_NAMES,
    )


def parameters_of(model: Any, names: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """Returns for each tensor of a file its parameter, and whether it fills the parameter alone.

    The rules are those of transformers.core_model_loading.convert_and_load_state_dict_in_model.

    Args:
        model: a model of transformers; it may be without memory for weights.
        names: of the tensors, as in the files.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    steps = get_model_conversion_mapping(model)
    renamings = [step for step in steps if isinstance(step, WeightRenaming)]
    converters = [step for step in steps if isinstance(step, WeightConverter)]
    state = model.state_dict()
    found = {}
    for name in names:
        key, pattern = rename_source_key(
            name, renamings, converters, model.base_model_prefix, state
        )
        if key not in state and name in state:
            key, pattern = rename_source_key(name, [], [], model.base_model_prefix, state)
        found[name] = key, pattern is None
    return found
