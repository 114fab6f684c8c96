"""Finds the modules of the loaded model on which PEFT can put what is written as an adapter.

PEFT looks for modules by their path in the model in memory. Loading may change names, stack or
split tensors, and some layers are no linear modules although they hold a matrix. So the model is
made from its config.json, without memory for weights; transformers' own renamings lead from a
file's tensor to a parameter; and PEFT is asked to adapt the modules. A module that it refuses is
left out with its reason.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from merging.errors import LoadError, cause
from merging.inputs.checkpoint import Checkpoint
from merging.live.assemble import quiet_loading
from merging.live.model_config import read_config
from merging.loaded_model import empty_model, layers_of, parameters_of
from merging.outputs.adapter_folder import Module


class LoadedModules(NamedTuple):
    """The modules of a model in memory, for tensors of its files."""

    modules: dict[str, Module]
    """Tensor -> a linear module or an embedding that PEFT adapts."""
    reasons: dict[str, str]
    """Tensor -> why no adapter can hold it."""
    generates: bool
    """Whether the model's class writes text, which decides the task that PEFT is told."""


NOT_LOADED = LoadedModules({}, {}, True)
"""Of a model that transformers does not know."""


def loaded_modules(base: Checkpoint, names: Sequence[str]) -> LoadedModules:
    """Finds the module of each tensor.

    Args:
        base: Θ. Only its config.json, names and shapes are read.
        names: matrices of it.

    Raises:
        LoadError: if transformers cannot make the model that config.json describes.
    """
    with quiet_loading():
        model = _empty_model(base)
        modules: dict[str, Module] = {}
        reasons: dict[str, str] = {}
        for name, (parameter, alone) in parameters_of(model, names).items():
            module = _module(model, parameter, base.info(name).shape) if alone else _STACKED
            if isinstance(module, Module):
                modules[name] = module
            else:
                reasons[name] = module
        refused = _refused(model, list(modules.values()))
    for name in [name for name, module in modules.items() if module.path in refused]:
        reasons[name] = refused[modules.pop(name).path]
    return LoadedModules(modules, reasons, model.can_generate())


_STACKED = "transformers stacks, joins or splits them on loading"


def _empty_model(base: Checkpoint) -> Any:
    """Returns the model that config.json describes, of the class that it names, without memory."""
    config = read_config(base.path)
    layers = layers_of(config)
    if layers > len(base):
        raise LoadError(
            f"{base.path / 'config.json'} names {layers} layers; the files hold {len(base)} "
            "tensors in all. Take config.json and weights from the same model."
        )
    try:
        return empty_model(config)
    except Exception as error:
        # The file is untrusted: sizes that do not divide, unknown activations, no class of a model.
        reason = cause(error)
    raise LoadError(
        f"{base.path / 'config.json'}: the model cannot be made, so the paths of its modules are "
        f"unknown: {reason}. Correct it, or copy it again from the original model."
    )


def _module(model: Any, parameter: str, shape: tuple[int, ...]) -> Module | str:
    """Returns the module of a parameter that has a tensor's shape, or why PEFT cannot adapt it."""
    from transformers.pytorch_utils import Conv1D

    path, _, end = parameter.rpartition(".")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if parameter not in parameters:
        return "the loaded model does not have them"
    if tuple(parameters[parameter].shape) != shape:
        return "config.json describes other shapes than the files have"
    module = model.get_submodule(path)
    if end == "weight" and isinstance(module, nn.Linear | Conv1D):
        return Module(path, isinstance(module, Conv1D))
    if end == "weight" and isinstance(module, nn.Embedding):
        return Module(path, True, True)  # PEFT adds (B·A)ᵀ to the matrix of an embedding
    return f"PEFT adapts linear layers, and they belong to a {type(module).__name__}"


def _refused(model: Any, modules: Sequence[Module]) -> dict[str, str]:
    """Puts LoRA layers on the modules; returns the paths that PEFT refuses, with its reasons."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    refused: dict[str, str] = {}
    for number, group in enumerate(_alike(modules).values()):
        paths = [module.path for module in group]
        settings = LoraConfig(
            r=1, target_modules=paths, fan_in_fan_out=group[0].transposed and not group[0].embedding
        )
        try:
            with warnings.catch_warnings(), torch.device("meta"):
                warnings.simplefilter("ignore")  # on tied embeddings: nothing is merged here
                inject_adapter_in_model(settings, model, f"n{number}", low_cpu_mem_usage=True)
        except ValueError as error:
            # Its first sentence; what follows is advice for who chose the targets.
            reason = cause(error).split(". ")[0]
            refused |= dict.fromkeys(paths, f"PEFT refuses them: {reason}")
            continue
        refused |= {
            path: "PEFT does not find them"
            for path in paths
            if not isinstance(model.get_submodule(path), BaseTunerLayer)
        }
    return refused


def _alike(modules: Sequence[Module]) -> Mapping[tuple[str, bool], list[Module]]:
    """Groups modules of one name, such as out_proj: PEFT refuses by these names."""
    groups: dict[tuple[str, bool], list[Module]] = {}
    for module in modules:
        groups.setdefault((module.path.rpartition(".")[2], module.transposed), []).append(module)
    return groups
