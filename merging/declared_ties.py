"""Asks transformers which tensors of a model's files are one parameter of the loaded model.

The model is made from its config.json, without memory for weights. transformers' own code ties its
parameters then, so its rules, defaults and exceptions are not repeated here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from merging.loaded_config import loaded_config, quiet
from merging.loaded_model import empty_model, layers_of, parameters_of


def filled_parameters(
    document: Mapping[str, Any], names: Sequence[str], most_layers: int
) -> dict[str, int] | None:
    """Returns name of a tensor -> a number for the parameter that it fills alone.

    Names with the same number are one parameter, if their tensors are equal: transformers does not
    tie tensors that differ. Names that the model does not have are left out.

    Args:
        document: the content of config.json. It is not trusted.
        names: of the tensors, as in the files.
        most_layers: a configuration with more layers than this is not believed.

    Returns:
        None if transformers does not know the model, or cannot make it.
    """
    config = loaded_config(document)
    if config is None or layers_of(config) > most_layers:
        return None
    with quiet():
        try:
            model = empty_model(config)
        # The document is untrusted, and every architecture raises errors of its own kind for it.
        except Exception:
            return None
        # By identity: tied parameters are one object under several names.
        numbers = {
            name: id(value)
            for values in (model.named_parameters, model.named_buffers)
            for name, value in values(remove_duplicate=False)
        }
        found = parameters_of(model, names)
    return {
        name: numbers[parameter]
        for name, (parameter, alone) in found.items()
        if alone and parameter in numbers
    }
