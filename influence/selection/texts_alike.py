"""Tells when two examples have the same text, or nearly the same."""

from __future__ import annotations

import unicodedata
from typing import Literal

from corpus.near_duplicates import NEAR, gram_weights
from corpus.records import Chat, Record, record_text
from influence.selection.example_set import ExampleSet

Alike = Literal["exact", "near"]
"""Which texts count as the same.

"exact": equal but for case, white space and Unicode form. "near": these, and near-duplicates by
corpus.near_duplicates.
"""


def text_key(record: Record) -> str:
    """Returns the text of a record; records whose texts count as the same have the same one.

    Of a chat, the calls of tools and the descriptions of tools count too.
    """
    text = record_text(record)
    if isinstance(record, Chat):
        text = "\n".join([text, record.tools, *(message.more for message in record.messages)])
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class CopyFilter:
    """Remembers the examples that were chosen, and recognises copies of them."""

    def __init__(self, pool: ExampleSet, alike: Alike | None) -> None:
        """Reads the texts of the pool; with None nothing is a copy of anything."""
        self._keys = [text_key(each.record) for each in pool.examples] if alike else []
        self._weights = gram_weights(pool.texts) if alike == "near" else None
        self._chosen: list[int] = []
        self._chosen_keys: set[str] = set()

    def is_copy(self, row: int) -> bool:
        """Returns whether an example of the pool has the text of one that was chosen."""
        if not self._keys or not self._chosen:
            return False
        if self._keys[row] in self._chosen_keys:
            return True
        if self._weights is None:
            return False
        cosines = self._weights[self._chosen] @ self._weights[row].T
        return bool(cosines.max() >= NEAR)

    def add(self, row: int) -> None:
        """Remembers an example of the pool as chosen."""
        self._chosen.append(row)
        if self._keys:
            self._chosen_keys.add(self._keys[row])
