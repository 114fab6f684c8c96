"""A JSON file of measured losses that ships with models and data, to be read into a loss cache."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.errors import StoreError
from evaluation.records.loss_cache import Entry, LossCache
from plumbing.atomic import write_whole

FORMAT = 1
DIGITS = 7
"""Significant digits of a stored loss; the losses of a float32 model have no more."""


class Shipped(NamedTuple):
    """A composition of the open models whose losses may be in a file."""

    identity: str
    """Its key in the loss cache."""
    parts: str
    """What it is made of; see LossCache.describe."""


def write_losses(
    path: Path, cache: LossCache, compositions: Mapping[str, str], data: Iterable[str]
) -> None:
    """Writes the losses of some compositions on some datasets, with those of their examples.

    Args:
        path: the file.
        cache: holds all of these losses.
        compositions: Models.content_key of each composition -> its key in the cache.
        data: DataSet.keys of the examples of each dataset.

    Raises:
        StoreError: a loss was not measured, or not example by example.
    """
    datasets: dict[str, Any] = {}
    losses = []
    for key in data:
        for content, identity in compositions.items():
            entry = cache.get(identity, key)
            if entry is None or not entry.sums:
                raise StoreError(f"{path}: a loss of {identity} was not measured yet.")
            datasets[key] = {"dataset": entry.dataset, "counts": entry.counts}
            value, stderr, *sums = map(_rounded, (entry.value, entry.stderr, *entry.sums))
            losses.append(
                {"composition": content, "data": key, "value": value, "stderr": stderr}
                | {"sums": sums}
            )
    lines = [json.dumps(row) for row in losses]
    # A loss on each line, so that a change can be read.
    document = {"format": FORMAT, "data": datasets, "losses": []}
    text = json.dumps(document, ensure_ascii=False)
    write_whole(path, text.removesuffix("]}") + "\n" + ",\n".join(lines) + "\n]}\n")


def read_losses(path: Path, cache: LossCache, base: str, known: Mapping[str, Shipped]) -> int:
    """Puts the losses of a file into a cache; a loss that the cache has already stays.

    The file has keys of contents, so that it serves wherever the models lie; the cache has keys of
    files. Losses of other weights or examples than those that are open are never shown.

    Args:
        path: the file.
        cache: where the losses go.
        base: identity of the base.
        known: Models.content_key of each composition that may be in the file -> what it is here.

    Returns:
        How many losses were new.

    Raises:
        StoreError: the file is damaged, or has another format.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["format"] != FORMAT:
            raise StoreError(f"{path} has format {document['format']}; known is {FORMAT}.")
        rows = [
            (str(row["composition"]), str(row["data"]), _entry(row, document["data"][row["data"]]))
            for row in document["losses"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} has no losses that can be read ({error}).") from None
    new = [
        (known[content], data, entry)
        for content, data, entry in rows
        if content in known and cache.get(known[content].identity, data) is None
    ]
    for shipped, data, entry in new:
        cache.put(shipped.identity, data, entry)
    for shipped in {shipped for shipped, _, _ in new}:
        cache.describe(shipped.identity, base, shipped.parts)
    return len(new)


def _entry(row: Mapping[str, Any], data: Mapping[str, Any]) -> Entry:
    counts = tuple(map(int, data["counts"]))
    sums = tuple(map(float, row["sums"]))
    if len(sums) != len(counts):
        raise ValueError(f"{len(sums)} losses of {len(counts)} examples")
    value, stderr = float(row["value"]), float(row["stderr"])
    return Entry(str(data["dataset"]), value, stderr, len(counts), sum(counts), sums, counts)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
