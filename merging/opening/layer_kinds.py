"""Says of what kind each layer of a model is, as transformers builds it from its config.json.

Layers of one model may differ: sliding or full attention, dense or sparse MLP, with or without
rotary embeddings. Often config.json says so by a rule over the layer's number, and the names of
the tensors do not tell. So the model is built without memory (on torch's meta device), and its
layers are looked at: there is no table of architectures.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn

from merging.loaded_config import loaded_config, quiet
from merging.opening.stacked_config import is_per_layer, level_of

LIST, TENSOR, SETTING = "list", "tensor", "setting"
"""Where a fact comes from: a list of the configuration, a tensor, a setting of a module."""

Fact = tuple[str, str]
"""LIST, TENSOR or SETTING, and a name: `layer_types`, or `self_attn.q_proj.weight`."""
Facts = Mapping[Fact, Any]
"""What is known of one layer."""


class Layers(NamedTuple):
    """The layers of one model, as transformers builds it."""

    facts: tuple[Facts, ...]
    """What is known of each layer."""
    outside: Mapping[str, tuple[int, ...]]
    """The shapes of all tensors outside the layers."""
    config: Mapping[str, Any]
    """The part of the configuration that describes the layers, with defaults filled in."""

    def lists(self, layer: int) -> dict[Fact, Any]:
        """Returns the facts of a layer that the configuration's lists say."""
        return {fact: value for fact, value in self.facts[layer].items() if fact[0] == LIST}


def layers_of(config: Mapping[str, Any], stack: str, count: int) -> Layers | None:
    """Returns the layers that a config.json describes.

    Args:
        config: the content of config.json; it is not trusted.
        stack: the name of the stack of layers in the model's files, such as `model.layers`.
        count: how many layers there are.

    Returns:
        the layers; None if transformers does not know the architecture, cannot build it, or builds
        no such stack.
    """
    if (loaded := loaded_config(config)) is None:
        return None
    from transformers import AutoModel

    with quiet():
        try:
            with torch.device("meta"):
                model = AutoModel.from_config(loaded, attn_implementation="eager")
        # The file is untrusted: sizes that do not divide, activations that nobody knows.
        except Exception:
            return None
    path = _path(model, stack, count)
    if path is None:
        return None
    part = loaded.get_text_config()
    said = _lists(part, count)
    facts = [
        _of_module(layer) | {(LIST, key): entries[number] for key, entries in said.items()}
        for number, layer in enumerate(model.get_submodule(path).children())
    ]
    outside = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.startswith(f"{path}.")
    }
    return Layers(tuple(facts), outside, level_of(part.to_dict()))


def differences(wanted: Facts, layer: Facts, settings: Collection[Fact]) -> list[Fact]:
    """Returns the facts in which a layer is not as wanted: lists, then tensors, then settings.

    Args:
        wanted: the facts of the layer where it comes from.
        layer: the facts of the layer where it goes to.
        settings: the settings that count; those that a whole model shares are no kind of a layer.
    """
    both, either = wanted.keys() & layer.keys(), wanted.keys() | layer.keys()
    # Two models may be configured by other lists: then their tensors and settings tell.
    counted = [fact for fact in both if fact[0] == LIST]
    counted += [fact for fact in either if fact[0] == TENSOR or fact in settings]
    missing = object()
    return sorted(
        (fact for fact in counted if wanted.get(fact, missing) != layer.get(fact, missing)),
        key=lambda fact: (fact[0] == SETTING, fact),
    )


def varying(models: Collection[Layers]) -> set[Fact]:
    """Returns the settings that differ between two layers of one model.

    Those that only repeat the layer's number in each model are left out.
    """
    found: set[Fact] = set()
    for model in models:
        first = model.facts[0]
        for layer in model.facts[1:]:
            found |= {
                fact
                for fact in first.keys() | layer.keys()
                if fact[0] == SETTING and first.get(fact) != layer.get(fact)
            }
    return found - numbers(models)


def numbers(models: Collection[Layers]) -> set[Fact]:
    """Returns the settings that only repeat the layer's number, from 0 or 1, in each model."""
    return {
        fact
        for fact in set().union(*(layer for model in models for layer in model.facts))
        if fact[0] == SETTING and all(_is_number(fact, model.facts) for model in models)
    }


def _is_number(fact: Fact, facts: Sequence[Facts]) -> bool:
    return any(
        all(
            type(layer[fact]) is int and layer[fact] == number + first
            for number, layer in enumerate(facts)
            if fact in layer
        )
        for first in (0, 1)
    )


def _path(model: nn.Module, stack: str, count: int) -> str | None:
    """Returns the path of the module that holds the layers; None if there is none.

    Names in files and in modules differ by prefixes, and a vision tower may have as many layers:
    the path that shares most words with the stack's name in the files is taken.
    """
    numbers = [str(number) for number in range(count)]
    words = stack.split(".")
    paths = [
        path
        for path, module in model.named_modules()
        if [name for name, _ in module.named_children()] == numbers
    ]
    scores = {
        path: (path.split(".")[-1] == words[-1], len(set(path.split(".")) & set(words)))
        for path in paths
        # A list inside a layer, such as experts, is no stack of layers.
        if not any(word.isdecimal() for word in path.split("."))
    }
    return max(scores, key=scores.__getitem__) if scores else None


def _lists(config: Any, count: int) -> dict[str, list[Any]]:
    """Returns key -> one entry per layer, for each such list of a configuration.

    Lists of layer numbers are left out: what they do is seen in the modules.
    """
    from transformers import PreTrainedConfig

    computed = {
        name: getattr(config, name)
        for name in dir(type(config))
        if not hasattr(PreTrainedConfig, name)
        and isinstance(getattr(type(config), name, None), property)
    }
    lists = {}
    for key, value in chain(computed.items(), config.to_dict().items()):
        entries = list(value) if isinstance(value, tuple) else value
        # Of one or two layers it cannot be said whether [0, 1] are numbers or entries.
        if entries == list(range(count)) and count <= 2:
            continue
        if is_per_layer(key, entries, count):
            lists[key] = entries
    return lists


def _of_module(layer: nn.Module) -> dict[Fact, Any]:
    """Returns the shapes of a layer's tensors, and the plain settings of all its modules."""
    facts: dict[Fact, Any] = {
        (TENSOR, name): tuple(tensor.shape) for name, tensor in layer.state_dict().items()
    }
    for path, module in layer.named_modules():
        at = f"{path}." if path else ""
        facts[SETTING, f"{at}class"] = type(module).__name__
        for name, value in vars(module).items():
            if name.startswith("_") or name == "training":
                continue
            if callable(value) and hasattr(value, "__qualname__"):
                value = value.__qualname__
            if value is None or isinstance(value, bool | int | float | str | tuple | list):
                facts[SETTING, at + name] = value
    return facts
