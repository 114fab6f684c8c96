"""Searches values of a configuration that place the kinds of layers as wanted.

Some configurations have no list of layers, but numbers that place them: the first k layers are
dense (DeepSeek-V3), every n-th layer is sparse except those listed (Qwen2-MoE), attention comes at
an offset of a period (Jamba). Which keys those are is found out by trying them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from merging.opening.stacked_config import COUNTS, is_layer_numbers, level_of, with_level


class Fitness(NamedTuple):
    """How well a configuration's layers are what is wanted."""

    wrong: int
    """How many facts of the layers do not fit."""
    layers: Sequence[int]
    """The layers that do not fit."""
    kinds: Sequence[str]
    """The kind of each layer."""
    strange: bool
    """Whether a layer has something that no layer of the models has."""


Measure = Callable[[Mapping[str, Any]], Fitness | None]
"""Builds a configuration of the output; None if that is not possible."""


def other_placements(
    config: Mapping[str, Any], filled: Mapping[str, Any], measure: Measure
) -> Iterator[dict[str, Any]]:
    """Yields configurations in which fewer and fewer layers are of a wrong kind.

    One number is changed at a time, to the value that helps most, and lists of layer numbers are
    corrected after each change. The search ends when no change helps any more.

    Args:
        config: the configuration of the output.
        filled: its part with the layer keys, with defaults filled in.
        measure: counts what does not fit.
    """
    level = {**filled, **level_of(config)}
    count = next(level[key] for key in COUNTS if type(level.get(key)) is int)
    lists = [key for key, value in level.items() if is_layer_numbers(key, value, count)]
    best, fitness = dict(config), measure(config)
    if fitness is None:
        return
    placing = [
        key
        for key, value in level.items()
        if type(value) is int and 0 <= value <= count and key not in COUNTS
        # Tried for nothing: ids of tokens, which are small numbers too.
        if "token" not in key
        if _places(best, key, value, measure, fitness.kinds)
    ]
    while fitness.wrong:
        before = fitness.wrong
        changes: list[dict[str, Any]] = [{}]
        changes += [
            {key: value}
            for key in placing
            # Near values first, because the search stops at the first that fits.
            for _, value in sorted((abs(value - level[key]), value) for value in range(count + 1))
        ]
        start = best
        for change in changes:
            for attempt, result in _corrected(with_level(start, change), lists, count, measure):
                if result.wrong < fitness.wrong and not result.strange:
                    best, fitness = attempt, result
            if not fitness.wrong:
                break
        if fitness.wrong == before:
            return
        yield best


def _places(
    config: Mapping[str, Any], key: str, value: int, measure: Measure, kinds: Sequence[str]
) -> bool:
    """Returns whether another number under `key` puts layers of known kinds at other places."""
    results = (measure(with_level(config, {key: other})) for other in (value + 1, value - 1))
    return any(
        result is not None and not result.strange and result.kinds != kinds for result in results
    )


def _corrected(
    config: dict[str, Any], lists: Sequence[str], count: int, measure: Measure
) -> Iterator[tuple[dict[str, Any], Fitness]]:
    """Yields a configuration, and it with the layers that do not fit put on or off each list."""
    fitness = measure(config)
    if fitness is None:
        return
    yield config, fitness
    for key in lists if fitness.wrong else ():
        listed = level_of(config).get(key) or []
        corrected = with_level(config, {key: sorted(set(listed) ^ set(fitness.layers))})
        if (result := measure(corrected)) is not None:
            yield corrected, result
