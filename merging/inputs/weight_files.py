"""Finds the safetensors files of a model folder, and explains why a folder has none that fit."""

from pathlib import Path
from typing import Any

from merging.errors import CheckpointError
from merging.inputs.header import read_index
from merging.inputs.strict_json import read_json
from merging.paths import ADAPTER, DELTAS, INDEX, SINGLE, exists, is_adapter
from merging.tensor_names import natural_key
from plumbing.suggest import listed


def read_config(path: Path) -> dict[str, Any]:
    """Returns the config.json of a model folder; {} if it has none.

    Raises:
        CheckpointError: if the file is not a JSON object.
    """
    file = path / "config.json"
    if not file.exists():
        return {}
    # Mamba's configuration holds "time_step_limit": [0.0, Infinity], so Infinity is accepted here.
    document = read_json(file, finite=False)
    if not isinstance(document, dict):
        raise CheckpointError(f"{file} holds a JSON {type(document).__name__}, expected an object.")
    return document


def weight_files(path: Path) -> tuple[list[str], dict[str, str] | None]:
    """Returns the names of the weight files in a folder, and the weight map of its index.

    The weight map (tensor name -> file name) is None if the folder has no index.

    Raises:
        CheckpointError: if the folder does not hold exactly one set of safetensors weights.
    """
    if not exists(path):
        raise CheckpointError(
            f"{path} does not exist. Give the folder of a saved model (config.json, *.safetensors)."
        )
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file. Give the folder that holds it.")
    if (path / INDEX).exists():
        weight_map = read_index(path / INDEX)
        names = sorted(set(weight_map.values()), key=natural_key)
        for name in names:
            if not (path / name).exists():
                raise CheckpointError(
                    f"{path / INDEX} names {name}, which is missing. Download the folder again."
                )
        if (path / SINGLE).exists() and SINGLE not in names:
            raise CheckpointError(
                f"{path} holds {SINGLE} and shards with an index: two models in one folder, and "
                "tools disagree which of them is loaded. Remove the one that is stale."
            )
        return names, weight_map
    files = sorted((file.name for file in path.glob("*.safetensors")), key=natural_key)
    if SINGLE in files:
        return [SINGLE], None
    # One file of any other name is a model too, unless it is an adapter or a saved vector, whose
    # tensors are no weights.
    if len(files) == 1 and not is_adapter(path) and files != [DELTAS]:
        return files, None
    raise CheckpointError(_explain_no_weights(path, files))


def _explain_no_weights(path: Path, files: list[str]) -> str:
    """Returns the message for a folder whose safetensors files are no model's weights.

    Args:
        path: the folder.
        files: the names of its safetensors files.
    """
    if (path / ADAPTER).exists():
        return (
            f"{path} is a PEFT adapter, expected a full checkpoint. Add it as a vector to the "
            "base it was trained on."
        )
    if files == [DELTAS]:
        return (
            f"{path} is a saved distribution vector, expected weights. Add it as a vector to the "
            "base it was made on."
        )
    if files:
        return (
            f"{path} holds {listed(files)} but no {INDEX} that says which shards belong together."
        )
    pickles = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern)
    )
    if pickles:
        return (
            f"{path} holds pickle weights ({listed(pickles)}) and no safetensors. Pickles can run "
            "code when they are opened, so they are not read. If you trust the source, convert "
            "them once: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)."
        )
    other = sorted(
        file.name for pattern in ("*.gguf", "*.onnx", "*.h5") for file in path.glob(pattern)
    )
    if other:
        return (
            f"{path} holds {listed(other)}; only safetensors weights in full precision can be "
            "merged."
        )
    names = sorted(file.name for file in path.iterdir())
    return f"{path} holds no safetensors weights ({listed(names) if names else 'it is empty'})."
