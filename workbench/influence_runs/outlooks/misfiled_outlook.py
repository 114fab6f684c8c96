"""What looking for misfiled examples will cost: a gradient of each, and a loss by each expert."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from corpus import Record
from influence.selection.example_set import encode_examples
from influence.vectors.misfiled import misfiled_tables
from workbench.influence_runs.misfiled_run import open_experts
from workbench.influence_runs.outlooks.data_outlook import (
    DataOutlook,
    PartOutlook,
    start_seconds,
    timed,
)

if TYPE_CHECKING:
    from merging import Recipe

SAMPLE = 6
"""Examples of each dataset that are timed."""


def misfiled_outlook(
    recipe: Recipe,
    datasets: Mapping[str, Sequence[Record]],
    *,
    start: Callable[[], float] = start_seconds,
) -> DataOutlook:
    """Returns what `find_misfiled` will cost. It opens the models and times a few examples.

    Args:
        recipe, datasets: see find_misfiled.
        start: returns the seconds that a new process needs to start.

    Raises:
        CorpusError, InfluenceError, MergingError, LoadError, SessionError: as find_misfiled.
    """
    begin = time.perf_counter()
    live, tokenizer = open_experts(recipe)
    encoded = encode_examples(datasets, tokenizer)
    opening = time.perf_counter() - begin
    some = {
        name: random.Random(0).sample(own, min(SAMPLE, len(own)))
        for name, own in encoded.records.items()
    }
    misfiled_tables(live, {name: own[:1] for name, own in some.items()}, tokenizer)
    seconds = timed(lambda: misfiled_tables(live, some, tokenizer))
    tokens, timed_tokens = (
        sum(each.tokens for each in examples)
        for examples in (encoded.examples, encode_examples(some, tokenizer).examples)
    )
    experts = len(live.vectors)
    name = f"a gradient at the base, a loss by each of {experts} experts"
    passes = 1 + experts
    parts = (
        PartOutlook("start and reading", None, None, start() + opening),
        PartOutlook(name, passes * len(encoded), passes * tokens, seconds * tokens / timed_tokens),
    )
    return DataOutlook(parts, (f"{SAMPLE} examples of each dataset timed here",))
