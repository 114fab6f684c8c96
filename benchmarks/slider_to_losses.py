"""Claim: losses of all datasets stand on the page within a second of a settled slider.

    python -m benchmarks.slider_to_losses [--rounds 3]

The embedded demo: five vectors, five datasets. In each round all ω move to a composition that was not measured
before, and it is timed until the module is that composition, until the quick losses (the first examples of each
dataset) are there, and until the whole validation set is measured. The losses of the base and of each expert alone,
the ends of the bars, are measured once, before.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import machine

if TYPE_CHECKING:
    from workbench.session.session import Session

DEMO = machine.ROOT / "assets" / "demo"


class Moment(NamedTuple):
    """When something of a new composition was there, and on how many examples in all."""

    what: str
    seconds: float
    examples: int


def main(argv: Sequence[str] | None = None) -> None:
    """Move the sliders so many times, and print when what was there."""
    demo = {
        "type": Path,
        "default": DEMO,
        "help": "another folder with base/, checkpoints and data/",
    }
    options = machine.begin(__file__, __doc__, argv, rounds=3, demo=demo)
    from workbench.session.session import Session

    with tempfile.TemporaryDirectory() as workdir:
        session = Session([], Path(workdir), demo=options.demo)
        try:
            session.open_demo()
            models = session.models
            _measure(session, 0)  # the ends of the bars, and what torch loads at first use
            moves = [_measure(session, number) for number in range(1, options.rounds + 1)]
        finally:
            session.close()
    counts = f"{len(models.names)} vectors, {len(models.data)} datasets"
    print(f"{models.base.numel:,} parameters, {counts}, weights {models.memory}\n")
    rows = []
    for moments in zip(*moves, strict=True):
        took = machine.spread([moment.seconds for moment in moments])
        most = machine.bar(took.median, 1, " s") if moments[0].what == "quick losses" else ""
        rows.append([moments[0].what, str(moments[0].examples or ""), took.text(".3f"), most])
    machine.show(["from the settled slider to", "examples", "seconds", "bar"], rows)


def _measure(session: "Session", number: int) -> list[Moment]:
    """What one new composition took."""
    recipe = session.recipe(
        [0.2 + 0.01 * number + 0.05 * place for place in range(len(session.models.names))]
    )
    start = time.perf_counter()
    session.compose(recipe)
    moments = [Moment("the composition", time.perf_counter() - start, 0)]
    for reading in session.measure(recipe):
        quick = len(moments) == 1 and len(reading.points) == len(session.models.data)
        if quick or reading.stage == "exact":
            examples = sum(point.loss.n for point in reading.points.values())
            moments.append(
                Moment(
                    "quick losses" if quick else "full losses",
                    time.perf_counter() - start,
                    examples,
                )
            )
    return moments


if __name__ == "__main__":
    main()
