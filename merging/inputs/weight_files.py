"""Finds the safetensors files of a model folder, and explains why a folder has none that fit.

Most models have all weights on top of their folder. Those of sentence-transformers have modules in
sub-folders, which modules.json names, such as a 2_Dense with a model.safetensors of its own. These
weights belong to the model: their tensors are called `2_Dense/linear.weight`.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from merging.errors import CheckpointError
from merging.file_kinds import kind_by_name
from merging.folder_files import is_plain
from merging.inputs.header import read_index
from merging.inputs.strict_json import read_json
from merging.paths import ADAPTER, DELTAS, INDEX, MODULES, PIPELINE, SINGLE, exists, is_adapter
from merging.tensor_names import natural_key
from plumbing.suggest import listed

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


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


def weight_files(path: Path) -> tuple[list[str], dict[str, str]]:
    """Returns the names of a model's weight files, and the weight map of its indexes.

    Those in the sub-folders of modules come last and have the sub-folder in their name. The weight
    map (tensor name -> file name) has the tensors of folders with an index only.

    Raises:
        CheckpointError: if the folder does not hold exactly one set of safetensors weights, or a
            module's sub-folder has other weights.
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
        return _with_modules(path, names, weight_map)
    files = sorted((file.name for file in path.glob("*.safetensors")), key=natural_key)
    if SINGLE in files:
        return _with_modules(path, [SINGLE], {})
    # One file of any other name is a model too, unless it is an adapter or a saved vector, whose
    # tensors are no weights.
    if len(files) == 1 and not is_adapter(path) and files != [DELTAS]:
        return _with_modules(path, files, {})
    raise CheckpointError(_explain_no_weights(path, files))


def module_folders(path: Path) -> list[str]:
    """Returns the sub-folders that a model folder's modules.json or model_index.json names.

    The first is of sentence-transformers: a list of modules with a `path` each, which is empty for
    the one on top. The second is of diffusers: `[library, class]` by sub-folder. A file of another
    form names none.

    Raises:
        CheckpointError: if a file is not JSON, or names a folder outside.
    """
    named: list[str] = []
    if (path / MODULES).exists():
        document = read_json(path / MODULES)
        entries = document if isinstance(document, list) else []
        named += [
            entry["path"]
            for entry in entries
            if isinstance(entry, dict) and isinstance(entry.get("path"), str)
        ]
    if (path / PIPELINE).exists():
        document = read_json(path / PIPELINE)
        parts = document if isinstance(document, dict) else {}
        # A part that is left out is [null, null]; settings of the pipeline are no pairs of texts.
        named += [
            key
            for key, value in parts.items()
            if isinstance(value, list) and len(value) == 2 and all(type(v) is str for v in value)
        ]
    folders = [name.removeprefix("./").rstrip("/") for name in named]
    for name in (folders := [name for name in folders if name not in ("", ".")]):
        if not is_plain(name):
            raise CheckpointError(
                f"{path} names {name[:80]!r} as a module, which is not the name of a sub-folder. "
                "It is not followed."
            )
    return list(dict.fromkeys(folders))


def module_weights(
    where: str, modules: Sequence[str], names: Collection[str]
) -> dict[str, list[str]]:
    """Returns sub-folder -> the names in it of the weight files of a model's modules.

    Args:
        where: the model, for messages.
        modules: what module_folders returns.
        names: all files of the model, relative to its folder.

    Raises:
        CheckpointError: if a module has weights that are not one set of safetensors files.
    """
    contents: dict[str, list[str]] = {}
    for name in sorted(names, key=natural_key):
        at, _, file = name.rpartition("/")
        contents.setdefault(at, []).append(file)
    found: dict[str, list[str]] = {}
    for module in modules:
        inside = {at: files for at, files in contents.items() if f"{at}/".startswith(f"{module}/")}
        safe = {
            at: own
            for at, files in inside.items()
            if (own := [file for file in files if file.endswith(".safetensors")])
        }
        for at, files in inside.items():
            other = [file for file in files if _is_weights(file, files)]
            # Formats for other programs may lie in a sub-folder of their own beside safetensors.
            pickles = [file for file in other if file.endswith(_PICKLES)]
            if at not in safe and (pickles or (other and not safe)):
                raise CheckpointError(
                    f"{where}: {at} is a part of the model and holds {listed(other)}, no "
                    "safetensors. Pickles and other formats are not read. Save the model again "
                    "with its own library, which writes safetensors (in sentence-transformers: "
                    "SentenceTransformer(FOLDER).save(NEW_FOLDER)), and give that folder."
                )
        for at, own in safe.items():
            if SINGLE in own and INDEX not in inside[at]:
                own = [SINGLE]
            if len(own) > 1 and INDEX not in inside[at]:
                raise CheckpointError(
                    f"{where}: {at} is a part of the model and holds {listed(own)}, but no "
                    f"{INDEX} that says which belong together."
                )
            found[at] = own
    return found


def folder_of(name: str, folders: Collection[str]) -> str:
    """Returns the sub-folder to which a tensor belongs; empty for the top folder.

    Args:
        name: a tensor of a checkpoint, such as 2_Dense/linear.weight.
        folders: the checkpoint's sub-folders with weights.
    """
    # Looked up, because names from TensorFlow have slashes of their own.
    at = name.rpartition("/")[0]
    return at if at in folders else ""


def only_in(name: str, weights: Collection[str], other: Collection[str]) -> bool:
    """Returns whether a tensor lies in a sub-folder of `weights` of which `other` has nothing.

    A plain encoder may be the base of a fine-tune with a 2_Dense, and the other way round.
    """
    at = folder_of(name, getattr(weights, "folders", ()))
    return at != "" and at not in getattr(other, "folders", ())


def module_notes(base: Collection[str], tuned: Collection[str]) -> tuple[str, ...]:
    """Returns sentences on sub-folders with weights that only one of two checkpoints has."""
    ours, theirs = (set(getattr(weights, "folders", ())) for weights in (base, tuned))
    notes = []
    if lacking := sorted(ours - theirs):
        notes.append(
            f"it has no weights in {listed(lacking)}, a part of the base, which is kept as it is."
        )
    if extra := sorted(theirs - ours):
        notes.append(
            f"its weights in {listed(extra)} are left out, because the base has no such part; to "
            "keep them, copy the sub-folder and modules.json by hand."
        )
    return tuple(notes)


def _with_modules(
    path: Path, names: list[str], weight_map: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Adds the weights in the sub-folders of a model's modules to those on top of its folder."""
    names, weight_map = list(names), dict(weight_map)
    modules = module_folders(path)
    for at, files in module_weights(str(path), modules, _files_in(path, modules)).items():
        if (path / at / INDEX).exists():
            own = read_index(path / at / INDEX)
            weight_map |= {f"{at}/{name}": f"{at}/{file}" for name, file in own.items()}
            files = sorted(set(own.values()), key=natural_key)
        names += [f"{at}/{file}" for file in files]
    return names, weight_map


def _files_in(path: Path, modules: Sequence[str]) -> list[str]:
    """Returns everything in the sub-folders of a model, relative to its folder."""
    return [
        file.relative_to(path).as_posix()
        for module in modules
        for file in (path / module).rglob("*")
    ]


def _is_weights(file: str, files: Collection[str]) -> bool:
    """Returns whether a file holds weights of another format than safetensors."""
    # OpenVINO's .bin file is no pickle; its graph lies beside it.
    graph = file.endswith(".bin") and f"{file[:-4]}.xml" in files
    return kind_by_name(file) == "weights" and not file.endswith(".safetensors") and not graph


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
    modules = module_folders(path)
    if message := explain_parts(str(path), modules, _files_in(path, modules)):
        return message
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
        converted = next((name for name in other if name.endswith(".gguf")), None)
        advice = f" Convert it once: dem convert {path / converted} OUT." if converted else ""
        return (
            f"{path} holds {listed(other)}; only safetensors weights in full precision can be "
            f"merged.{advice}"
        )
    names = sorted(file.name for file in path.iterdir())
    return f"{path} holds no safetensors weights ({listed(names) if names else 'it is empty'})."


def explain_parts(where: str, modules: Sequence[str], names: Collection[str]) -> str:
    """Returns the message for a model all of whose weights are in sub-folders; empty if it is none.

    Args: as in module_weights.
    """
    parts = [
        module
        for module in modules
        if any(n.startswith(f"{module}/") and kind_by_name(n) == "weights" for n in names)
    ]
    if not parts:
        return ""
    return (
        f"{where} holds no weights on top, only in its parts: {listed(parts)}. Merge the parts one "
        "by one, each as a model folder of its own, and put the results in their places."
    )
