"""Reads a config.json as transformers does: old spellings translated, defaults filled in.

transformers is imported only when a document is really asked about. A document that it does not
know gives None, so that callers fall back to the document itself. No code of a model's folder is
run, no attention kernel is fetched, nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LEFT_OUT = {
    "quantization_config",
    "dtype",
    "torch_dtype",
    *(
        f"{before}{part}_implementation{after}"
        for before in ("", "_")
        for part in ("attn", "experts")
        for after in ("", "_internal")
    ),
}
"""Keys, at any depth, that say how a model is run and not which model it is.

An attention implementation may name a kernel on the hub, which transformers would fetch.
"""
_BOOKKEEPING = _LEFT_OUT | {
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "architectures",
    "transformers_version",
    "use_cache",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "unsloth_fixed",
    "unsloth_version",
}
"""Keys, at any depth, that change no output of a model."""
_DEPTH = 60
"""Levels of a document that are read."""
_CODE = ("auto_map", "trust_remote_code", "custom_pipelines")


def loaded_config(document: Mapping[str, Any]) -> PreTrainedConfig | None:
    """Returns a config.json as transformers' own class reads it.

    Args:
        document: the content of config.json. It is not trusted and not changed.

    Returns:
        the configuration; None if the document asks for code of its own, or transformers does not
        know its model_type or rejects its values.
    """
    name = document.get("model_type")
    if not isinstance(name, str) or any(document.get(key) for key in _CODE):
        return None
    from transformers import AutoConfig

    # Through a file, because only then transformers translates infinities that JSON cannot hold.
    with tempfile.TemporaryDirectory() as folder, quiet():
        text = json.dumps(_without(document, _LEFT_OUT))
        Path(folder, "config.json").write_text(text, encoding="utf-8")
        try:
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
        # The document is untrusted, and every architecture raises errors of its own kind for it.
        except Exception:
            return None
    return config


def essential(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config.json without the keys, at any depth, that change no output of a model."""
    kept: dict[str, Any] = _without(document, _BOOKKEEPING)
    return kept


def _without(node: Any, keys: set[str], depth: int = 0) -> Any:
    """Returns a copy of a document without some keys, at any depth."""
    # A stranger's file may be nested deeper than Python can follow; no configuration is.
    if depth > _DEPTH:
        return None
    if isinstance(node, Mapping):
        return {
            key: _without(value, keys, depth + 1) for key, value in node.items() if key not in keys
        }
    if isinstance(node, list):
        return [_without(value, keys, depth + 1) for value in node]
    return node


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' log inside the block: what matters is told as a problem or error."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
