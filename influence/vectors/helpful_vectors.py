"""Which vector helps which example most, and which hurts it most, from a table of derivatives."""

from typing import NamedTuple

from influence.vectors.example_table import ExampleTable


class HelpfulVectors(NamedTuple):
    """What a little more of each vector does to each of some examples.

    A vector helps an example if its derivative is below 0: more of it lowers the loss.
    """

    helped: tuple[float, ...]
    """[vectors] share of the examples that each vector helps, 0 to 1."""
    best: tuple[str, ...]
    """[examples] the vector that helps most, by nats per unit of ω; "" if none helps."""
    worst: tuple[str, ...]
    """[examples] the vector that hurts most; "" if none hurts."""


def helpful_vectors(table: ExampleTable) -> HelpfulVectors:
    """Returns the best and the worst vector of each example.

    Args:
        table: of one example or more.
    """
    shares = (table.slopes < 0).double().mean(0).tolist()
    lowest, highest = table.slopes.min(1), table.slopes.max(1)
    best = [
        table.vectors[at] if slope < 0 else ""
        for slope, at in zip(lowest.values.tolist(), lowest.indices.tolist(), strict=True)
    ]
    worst = [
        table.vectors[at] if slope > 0 else ""
        for slope, at in zip(highest.values.tolist(), highest.indices.tolist(), strict=True)
    ]
    return HelpfulVectors(tuple(shares), tuple(best), tuple(worst))
