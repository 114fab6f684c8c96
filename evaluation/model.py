"""A folder becomes a model in memory: the only door to transformers' AutoModel in this package.

The weights go through transformers' own loader but come from our Checkpoint, read with explicit reads. So no file is
mapped (one cut short while mapped kills the process), no index can name a file outside the folder, no adapter that
happens to lie in the folder is added, and what runs is what was fingerprinted.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evaluation import parameter_views as views
from evaluation.errors import LoadError
from evaluation.generation import generate
from merging.inputs.checkpoint import Checkpoint
from merging.live.live_model import View
from plumbing.suggest import listed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["Loaded", "assemble", "generate", "load", "reloader"]

CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")
"""Keys of config.json that make a loader import code from the folder or the hub (CVE-2026-5241 among others)."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Loaded:
    """A model in memory, in evaluation mode, and how its parameters relate to the tensors of its files."""

    module: nn.Module
    tokenizer: Any
    """None where the folder holds none; `notes` says so."""
    views: dict[str, View]
    """Per file tensor the region of a parameter that it fills, each compared with the file bit for bit."""
    reloads: bool
    """True where some used tensor has no view: a composition cannot be written in place, only loaded by `assemble`."""
    notes: list[str] = field(default_factory=list)


def load(
    folder: str | Path,
    *,
    checkpoint: Checkpoint,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Loaded:
    """Load a folder and find where each of its tensors lives in the module.

    Args:
        folder: config.json, safetensors files and, for measuring and talking, a tokenizer.
        checkpoint: the same folder, opened.
        dtype: of the parameters; by default what config.json names, else what most of the weights are stored in.
        device: where the module ends up. It is loaded on the CPU first.

    Raises:
        LoadError: no such folder, code asked for, an unknown architecture, tensors missing or of the wrong shape.
    """
    folder = Path(folder)
    config = _config(folder, checkpoint)
    dtype = dtype or _dtype(config, checkpoint)
    if dtype not in FLOATS:
        raise LoadError(
            f"{folder}: cannot run in {dtype}; give one of {', '.join(map(str, FLOATS))}."
        )
    _refuse_oversize(folder, config, checkpoint)
    found = views.find(lambda marked: assemble(folder, marked, dtype=dtype), checkpoint, dtype)
    module = assemble(folder, checkpoint, dtype=dtype).to(device)
    found = views.prove(found, module, checkpoint)
    notes = [*views.notes(found), *views.shared(found, module)]
    tokenizer = _tokenizer(folder)
    if tokenizer is None:
        notes.append(
            f"{folder} holds no tokenizer: copy the base's tokenizer files there to measure or talk to it"
        )
    elif len(tokenizer) > (rows := module.get_input_embeddings().weight.shape[0]):  # type: ignore[operator]
        notes.append(
            f"the tokenizer knows {len(tokenizer)} tokens, the model {rows}: texts that use the others fail"
        )
    return Loaded(module, tokenizer, found.views, bool(found.unplaced), notes)


def assemble(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """A module with the configuration of `folder` and these weights, named as in files, through transformers' loader.

    This is also how a composition gets into a module whose file tensors are no plain copies (`Loaded.reloads`).
    Tensors that arrive in `dtype` are not copied: the module keeps the very ones that the mapping returned.

    Raises:
        LoadError: naming the tensors that the model needs and `tensors` lacks, or that have another shape. transformers
            itself would fill missing ones with random numbers and only log it.
    """
    folder = Path(folder)
    with _quiet():
        from transformers import GenerationConfig

        skeleton = _skeleton(folder, _read_config(folder))
        try:
            module, info = type(skeleton).from_pretrained(
                None,
                config=skeleton.config,
                state_dict={name: _Lazy(tensors, name) for name in tensors},
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (
            RuntimeError
        ) as error:  # mismatched shapes and failed conversions; the first lines are a banner
            raise LoadError(
                f"{folder}: the weights do not fit config.json. {_shapes(skeleton, tensors) or error}"
            ) from None
        if missing := sorted(info["missing_keys"]):
            raise LoadError(
                f"{folder}: the model needs {listed(missing)}, which the weights do not hold. "
                "Take config.json and the weights from the same model."
            )
        module.config.name_or_path = str(folder)
        if (file := folder / "generation_config.json").is_file() and module.can_generate():
            try:
                module.generation_config = GenerationConfig.from_pretrained(
                    str(folder), local_files_only=True
                )
            except (OSError, ValueError, TypeError) as error:
                raise LoadError(
                    f"{file} cannot be read: {_first_line(error)} Correct or remove it."
                ) from None
    loaded: nn.Module = module.eval().requires_grad_(False).to(device)
    return loaded


def reloader(
    folder: str | Path, module: nn.Module
) -> Callable[[Iterable[tuple[str, Tensor]]], None]:
    """For `LiveModel(reload=…)`: a function that puts a whole composition into `module`, whose storage stays in place.

    It takes the memory of a second module for the time of the call.
    """

    @torch.no_grad()
    def reload(tensors: Iterable[tuple[str, Tensor]]) -> None:
        state = module.state_dict()
        fresh = assemble(folder, dict(tensors), dtype=next(module.parameters()).dtype)
        for name, tensor in fresh.state_dict().items():
            state[name].copy_(tensor)

    return reload


class _Lazy:
    """A tensor that is read when the loader asks for it, as it asks a safetensors slice: by `[...]`."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        self._tensors, self._name = tensors, name

    def __getitem__(self, _: object) -> Tensor:
        return self._tensors[self._name]


def _config(folder: Path, checkpoint: Checkpoint) -> PreTrainedConfig:
    """The checked configuration of a folder that was opened as `checkpoint`."""
    if checkpoint.path.resolve() != folder.resolve():
        raise LoadError(
            f"{folder} was to be loaded with the tensors of {checkpoint.path}. Open the same folder."
        )
    with _quiet():
        return _read_config(folder)


def _read_config(folder: Path) -> PreTrainedConfig:
    from transformers import AutoConfig

    if not folder.is_dir():  # transformers would say that it could not connect to the hub
        raise LoadError(
            f"{folder} is not a folder. Give the folder of a saved model (config.json, *.safetensors)."
        )
    file = folder / "config.json"
    try:
        document = json.loads(file.read_bytes())
    except OSError:
        raise LoadError(
            f"{folder} has no config.json. Copy it from the model that the weights belong to."
        ) from None
    except ValueError as error:
        raise LoadError(f"{file} is not JSON: {error}.") from None
    if key := _code_key(document):
        raise LoadError(
            f"{file} holds {key!r}, which makes a loader run code from the folder. Such models are refused; "
            "use a version of the model for an architecture that transformers has built in."
        )
    if isinstance(document, dict) and document.get("quantization_config"):
        raise LoadError(
            f"{file} describes quantised weights, which cannot be composed. Give the full-precision model."
        )
    try:
        return AutoConfig.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except (
        Exception
    ) as error:  # the file is untrusted, and every architecture validates in its own way
        raise LoadError(f"{file}: {_first_line(error)}") from None


def _code_key(document: Any) -> str | None:
    """The first key at any depth that asks for code, or None."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key in CODE_KEYS:
                return str(key)
            if inner := _code_key(value):
                return inner
    if isinstance(document, list):
        return next(filter(None, map(_code_key, document)), None)
    return None


def _dtype(config: PreTrainedConfig, checkpoint: Checkpoint) -> torch.dtype:
    named = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    if isinstance(named, torch.dtype):
        return named
    elements: dict[torch.dtype, int] = {}
    for name in checkpoint:
        info = checkpoint.info(name)
        if info.dtype.is_floating_point:
            elements[info.dtype] = elements.get(info.dtype, 0) + info.numel
    return max(elements, key=elements.__getitem__, default=torch.float32)


def _skeleton(folder: Path, config: PreTrainedConfig) -> Any:
    """The module without memory behind its parameters."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (
        Exception
    ) as error:  # as above: sizes that do not divide, unknown activations, no causal head
        raise LoadError(
            f"{folder / 'config.json'} describes no causal language model: {_first_line(error)}"
        ) from None


def _refuse_oversize(folder: Path, config: PreTrainedConfig, checkpoint: Checkpoint) -> None:
    """Refuse a configuration far larger than its weights before memory is taken for it."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > len(checkpoint):
        raise LoadError(
            f"{folder / 'config.json'} names {layers} layers; the files hold {len(checkpoint)} tensors in all."
        )
    with _quiet():
        needed = sum(parameter.numel() for parameter in _skeleton(folder, config).parameters())
    # A little too large is a missing tensor, which is said by name later.
    if needed > 2 * checkpoint.numel:
        raise LoadError(
            f"{folder / 'config.json'} describes {needed:,} parameters; the files hold {checkpoint.numel:,}. "
            "Take config.json and the weights from the same model."
        )


def _shapes(skeleton: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """'a is (3, 5) in the files and (3, 7) in the model' for the first few tensors whose names agree and shapes do not."""
    wanted = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    differ = [
        f"{name} is {shape} in the files and {wanted[name]} in the model"
        for name, shape in (
            (name, tuple(tensors[name].shape)) for name in tensors if name in wanted
        )
        if shape != wanted[name]
    ]
    return listed(differ, 3) + "." if differ else ""


def _tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    with _quiet():
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
        except Exception as error:  # a broken tokenizer.json raises whatever the Rust side chose
            raise LoadError(
                f"{folder}: the tokenizer cannot be read: {_first_line(error)}"
            ) from None


def _first_line(error: Exception) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its bars and load reports; what they say is raised or noted here instead."""
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
