"""Turns weights and a config.json into a module, through transformers' own loader.

This is the only door to transformers' AutoModel, for measuring and for training. The caller gives
the weights as a mapping, so it decides how they are read: no file is mapped here (a mapped file
that is cut short kills the process), no pickle is opened, no index can name a file outside the
folder, no adapter that happens to lie in the folder is added, and what runs is what was
fingerprinted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from merging.errors import LoadError, cause
from merging.live.model_config import read_config
from merging.live.model_kind import explained, refuse_other_kinds
from merging.tensor_names import place
from plumbing.suggest import listed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def assemble(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    trainable: bool = False,
    quantization: Any = None,
) -> nn.Module:
    """Returns a module with the configuration of `folder` and the weights in `tensors`.

    A composition whose file tensors are not plain copies of parameters (`Loaded.reloads`) also
    reaches a module this way. A tensor that already has `dtype` is not copied: the module keeps
    the very tensor that the mapping returned.

    Args:
        folder: holds config.json and, optionally, generation_config.json.
        tensors: all weights of the model, under the names that its files use.
        dtype: of the parameters.
        device: where the module is moved once it is assembled.
        trainable: whether parameters require a gradient, except those that the architecture itself
            keeps fixed, such as tables of sines. None does if False.
        quantization: transformers' configuration of a quantised model, such as BitsAndBytesConfig;
            each weight is quantised on `device` as it is read. Not quantised if None.

    Returns:
        The module in evaluation mode.

    Raises:
        LoadError: a tensor that the model needs is missing or has another shape (the message
            names it), or a configuration file cannot be read.
    """
    folder = Path(folder)
    quantised: dict[str, Any] = {}
    if quantization is not None:
        # Without a map, transformers would take an accelerator whenever there is one.
        quantised = {"quantization_config": quantization, "device_map": {"": str(device)}}
    with quiet_loading():
        from transformers import GenerationConfig

        # The skeleton gives the architecture's own class. AutoModel's from_pretrained (transformers
        # 5) would look in the folder for an adapter and put it on the model.
        skeleton = empty_module(folder, read_config(folder))
        try:
            module, info = type(skeleton).from_pretrained(
                None,
                config=skeleton.config,
                state_dict={name: _Lazy(tensors, name) for name in tensors},
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **quantised,
            )
        except RuntimeError as error:
            # Raised for shapes that differ and for failed conversions. The text begins with a
            # banner that names no tensor, so our own list of differing shapes comes first.
            reason = _differing_shapes(skeleton, tensors) or cause(error)
            problem = f"{folder}: the weights do not fit config.json. {reason}"
            raise LoadError(explained(folder, skeleton.config, problem)) from None
        # transformers fills missing tensors with random numbers and only logs it.
        if missing := sorted(info["missing_keys"]):
            headless = all(place(name).part == "head" for name in missing)
            advice = (
                "They were saved without the head: save them with it, or set tie_word_embeddings "
                "in config.json if the embeddings are the head."
                if headless
                else "Take config.json and the weights from the same model."
            )
            problem = f"{folder}: the model needs {listed(missing)}, which the weights do not hold."
            problem = f"{problem} {advice}"
            raise LoadError(explained(folder, skeleton.config, problem))
        # from_pretrained was given no path, so it set this name to None and read no
        # generation_config.json. That file names the tokens that end a turn of a chat model.
        module.config.name_or_path = module.name_or_path = str(folder)
        if (file := folder / "generation_config.json").is_file() and module.can_generate():
            try:
                module.generation_config = GenerationConfig.from_pretrained(
                    str(folder), local_files_only=True
                )
            except (OSError, ValueError, TypeError) as error:
                raise LoadError(
                    f"{file} cannot be read: {cause(error)}. Correct or remove it."
                ) from None
    loaded: nn.Module = module.eval().to(device)
    return loaded if trainable else loaded.requires_grad_(False)


def reloader(
    folder: str | Path, module: nn.Module
) -> Callable[[Iterable[tuple[str, Tensor]]], None]:
    """Returns a function for `LiveModel(reload=…)` that loads a whole composition into `module`.

    The module's storage stays in place. During a call the memory of a second module is needed.
    """

    @torch.no_grad()
    def reload(tensors: Iterable[tuple[str, Tensor]]) -> None:
        # Copied into the module's own storage, because others hold this module: the live model, the
        # page, lm-eval.
        state = module.state_dict()
        fresh = assemble(folder, dict(tensors), dtype=next(module.parameters()).dtype)
        for name, tensor in fresh.state_dict().items():
            state[name].copy_(tensor)

    return reload


class _Lazy:
    """A tensor that is read when transformers' loader indexes it with `[...]`.

    The loader indexes the slices of a safetensors file in the same way.
    """

    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        self._tensors, self._name = tensors, name

    def __getitem__(self, _: object) -> Tensor:
        return self._tensors[self._name]


def empty_module(folder: Path, config: PreTrainedConfig) -> Any:
    """Returns the module that a configuration describes, with parameters that take no memory.

    Raises:
        LoadError: the configuration describes no causal language model; the message says what it
            describes.
    """
    from transformers import AutoModelForCausalLM

    refuse_other_kinds(folder, config)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        # Untrusted too: sizes that do not divide, unknown activations, no causal head.
        problem = f"{folder / 'config.json'} describes no causal language model: {cause(error)}."
        raise LoadError(explained(folder, config, problem)) from None


def _differing_shapes(skeleton: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Describes the first three tensors whose shape differs between files and model; "" if none.

    Example: "a is (3, 5) in the files and (3, 7) in the model."
    """
    expected = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    actual = {name: tuple(tensors[name].shape) for name in tensors if name in expected}
    differ = [
        f"{name} is {shape} in the files and {expected[name]} in the model"
        for name, shape in actual.items()
        if shape != expected[name]
    ]
    return listed(differ, 3) + "." if differ else ""


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers' progress bars and load reports inside the block.

    What they would report is raised as a LoadError or noted in `Loaded.notes` instead.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
