"""A JSON file of measured losses that ships with models and data, to be read into a loss cache."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evaluation.errors import StoreError
from evaluation.records.loss_cache import Entry, LossCache
from plumbing.atomic import write_whole

FORMAT = 1
DIGITS = 7
"""Significant digits of a stored loss; the losses of a float32 model have no more."""


def write_losses(
    path: Path, cache: LossCache, base: str, compositions: Mapping[str, str], data: Iterable[str]
) -> None:
    """Writes the losses of some compositions on some datasets, with those of their examples.

    Args:
        path: the file.
        cache: holds all of these losses.
        base: identity of the base.
        compositions: Models.identity of each composition -> what it is made of; see
            LossCache.describe.
        data: DataSet.keys of the examples of each dataset.

    Raises:
        StoreError: a loss was not measured, or not example by example.
    """
    datasets: dict[str, Any] = {}
    losses = []
    for key in data:
        for composition in compositions:
            entry = cache.get(composition, key)
            if entry is None or not entry.sums:
                raise StoreError(f"{path}: a loss of {composition} was not measured yet.")
            datasets[key] = {"dataset": entry.dataset, "counts": entry.counts}
            value, stderr, *sums = map(_rounded, (entry.value, entry.stderr, *entry.sums))
            losses.append(
                {"composition": composition, "data": key, "value": value, "stderr": stderr}
                | {"sums": sums}
            )
    document = {"format": FORMAT, "base": base, "compositions": dict(compositions)}
    lines = [json.dumps(row) for row in losses]
    # A loss on each line, so that a change can be read.
    text = json.dumps(document | {"data": datasets, "losses": []}, ensure_ascii=False)
    write_whole(path, text.removesuffix("]}") + "\n" + ",\n".join(lines) + "\n]}\n")


def read_losses(path: Path, cache: LossCache) -> int:
    """Puts the losses of a file into a cache; a loss that the cache has already stays.

    Losses are found under the digests of weights and examples. So losses of other files than those
    that are open are never shown.

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
            (row["composition"], row["data"], _entry(row, document["data"][row["data"]]))
            for row in document["losses"]
        ]
        described = {str(key): str(parts) for key, parts in document["compositions"].items()}
        base = str(document["base"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} has no losses that can be read ({error}).") from None
    new = [row for row in rows if cache.get(row[0], row[1]) is None]
    for composition, data, entry in new:
        cache.put(composition, data, entry)
    for composition in {row[0] for row in new} & described.keys():
        cache.describe(composition, base, described[composition])
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
