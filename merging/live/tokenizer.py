"""Loads the tokenizer of a model folder, which came from a stranger, from this folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import LoadError, cause
from merging.live.assemble import quiet_loading
from merging.live.model_config import entries, read_untrusted
from plumbing.suggest import listed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
"""A folder that holds none of these files has no tokenizer."""

TOKENS = "special_tokens_map.json"
SETTINGS = ("tokenizer_config.json", TOKENS)
"""Files whose keys become arguments of the tokenizer."""

PATHS = ("vocab", "merges", "fast_tokenizer_files", "name_or_path")
"""Arguments that are a path, or may be one, besides those that end in _file, _dir or _path."""


def read_tokenizer(folder: Path, config: PreTrainedConfig) -> Any:
    """Loads the tokenizer of a folder; None if the folder holds no tokenizer file.

    Args:
        folder: the folder of a model.
        config: its configuration, checked by read_config. It decides the tokenizer's class if the
            tokenizer's own files do not.

    Raises:
        LoadError: the tokenizer's files are incomplete or damaged, or ask a loader to run code or
            to read files elsewhere.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    ignored = _ignored_paths(folder)
    with quiet_loading():
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(
                str(folder),
                config=config,
                trust_remote_code=False,
                local_files_only=True,
                **dict.fromkeys(ignored),
            )
        except Exception as error:
            # Every class is caught, because the Rust library raises errors of its own kinds for a
            # broken tokenizer.json. A missing one is not named by transformers: it lists what a
            # tokenizer can be made from.
            if not (folder / "tokenizer.json").is_file():
                raise LoadError(
                    f"{folder} has no tokenizer.json. Copy the tokenizer files (tokenizer.json, "
                    "tokenizer_config.json) from the base model into it."
                ) from None
            raise LoadError(
                f"{folder}: the tokenizer cannot be read: {cause(error)}. "
                "Copy the tokenizer files from the base model again."
            ) from None


def _ignored_paths(folder: Path) -> set[str]:
    """Returns the settings that name a file, which are to be None when the tokenizer is loaded.

    Many published tokenizers hold paths of the machine that saved them. transformers 5.23 takes the
    folder's own file for an argument that the tokenizer's class knows, and follows all others.

    Raises:
        LoadError: a file is damaged, runs code, or has paths where they cannot be ignored.
    """
    ignored: set[str] = set()
    for name in SETTINGS:
        file = folder / name
        if not file.is_file():
            continue
        document = read_untrusted(file)
        if not isinstance(document, dict):
            raise LoadError(f"{file} holds a JSON {type(document).__name__}, expected an object.")
        if document.get("init_inputs"):
            raise LoadError(
                f"{file} holds init_inputs, arguments without a name, which may be files anywhere. "
                "Copy the tokenizer files from the base model again."
            )
        paths = {key for key in document if _is_path(key)}
        # Its entries replace even the arguments that the caller gives.
        if paths and name == TOKENS:
            raise LoadError(
                f"{file} holds {listed(sorted(paths))}, expected special tokens. "
                "Copy the tokenizer files from the base model again."
            )
        ignored |= paths
        for key, value in document.items():
            # Settings of another library: of SentencePiece, or of a Japanese tokenizer.
            texts = [text for _, text in entries(value) if isinstance(text, str)]
            if key.endswith("_kwargs") and any("/" in text or "\\" in text for text in texts):
                raise LoadError(
                    f"{file}: {key} names a file. Such settings are not followed; remove the key."
                )
    return ignored


def _is_path(key: str) -> bool:
    """Returns whether an argument of a tokenizer is a path, or may be one."""
    return key in PATHS or key.endswith(("_file", "_files", "_dir", "_path", "_spm", "_vocab"))
