"""What the parts of the reader share: names, values of the metadata, and the refusal."""

from __future__ import annotations

from typing import Any

NAME = "model.gguf"
"""Name under which the file is linked into an empty folder, so that nothing beside it is read."""

ROPE_FACTORS = "rope_freqs.weight"
"""Tensor with a divisor for the frequency of each pair of dimensions, as Llama 3.1 has them."""


class Refused(Exception):
    """The file cannot be converted; the message says why."""


def field(content: Any, name: str) -> Any:
    """Returns a value of the file's metadata; None if the file does not have it."""
    found = content.get_field(name)
    return None if found is None else found.contents()
