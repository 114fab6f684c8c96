"""Claim: the losses of all datasets are on the page within a second of a settled slider.

    python -m benchmarks.slider_to_losses [--rounds 3]

It runs on the demo: five vectors, five datasets. In each round all ω move to a composition that was
not measured before. Three times are measured: until the module is that composition, until the quick
losses (the first examples of each dataset) are known, and until the whole validation set has been
measured. The losses of the base and of each expert alone, which are the ends of the page's bars,
are measured once, before the rounds.
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
    """When a part of the answer to a move was ready, and how many examples it is based on."""

    what: str
    seconds: float
    examples: int


def main(argv: Sequence[str] | None = None) -> None:
    """Move the sliders in each round, and print how long each part of the answer took."""
    demo = {
        "type": Path,
        "default": DEMO,
        "help": "another folder with base/, checkpoints and data/ (default: the demo)",
    }
    options = machine.begin(__file__, __doc__, argv, rounds=3, demo=demo)
    from workbench.session.session import Session

    with tempfile.TemporaryDirectory() as workdir:
        session = Session([], Path(workdir), demo=options.demo)
        try:
            session.open_demo()
            models = session.models
            # Measures the ends of the bars, and makes torch load what it loads at first use.
            _measure(session, 0)
            moves = [_measure(session, number) for number in range(1, options.rounds + 1)]
        finally:
            session.close()
    counts = f"{len(models.names)} vectors, {len(models.data)} datasets"
    print(f"{models.base.numel:,} parameters, {counts}, weights {models.memory}\n")
    rows = []
    for moments in zip(*moves, strict=True):
        took = machine.spread([moment.seconds for moment in moments])
        target = machine.target(took.median, 1, " s") if moments[0].what == "quick losses" else ""
        rows.append([moments[0].what, str(moments[0].examples or ""), took.text(".3f"), target])
    machine.show(["from the settled slider to", "examples", "seconds", "target"], rows)


def _measure(session: "Session", number: int) -> list[Moment]:
    """Compose a new recipe and measure its losses; return when each part was ready.

    Args:
        session: with the demo open.
        number: of the round; each number gives another recipe.
    """
    recipe = session.recipe(
        [0.2 + 0.01 * number + 0.05 * index for index in range(len(session.models.names))]
    )
    start = time.perf_counter()
    session.compose(recipe)
    moments = [Moment("the composition", time.perf_counter() - start, 0)]
    for reading in session.measure(recipe):
        # The first reading that has all datasets; those before it lack some.
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
