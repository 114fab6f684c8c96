"""Claim: the page predicts the losses of a move before it is composed, within one frame.

    python -m benchmarks.predicted_against_measured [--rounds 3] [--moves 24] [--demo FOLDER]

First the accuracy, on the demo. A round begins as a page does: with the losses and their
derivatives at the best ω and at the base. Then a hand moves one slider at a time, to anywhere from
0 to 1. Each move is predicted from what was measured before it, then measured on all examples, and
then its derivatives are measured too, as a page at rest does. Rounds differ in their seed.

Then the time: all that a page computes for one frame of a drag, the predictions of eight datasets
and the strips and arrows of sixteen sliders, in node, from as many measured numbers as a forecast
takes. A frame at 60 Hz has 16.7 ms.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import machine

SLIDERS, DATASETS = 16, 8
SCRIPT = """
const fs = require("fs"), vm = require("vm");
vm.runInThisContext(fs.readFileSync(process.argv[2], "utf8"));
const page = new globalThis.dem.Forecast(JSON.parse(fs.readFileSync(0, "utf8")));
const before = performance.now();
for (const surrogate of page.datasets.values()) surrogate.solved = surrogate.prepare();
const prepared = performance.now() - before;
const values = Array.from({ length: 31 }, (_, place) => -1 + 0.1 * place), spent = [];
for (let frame = 0; frame < 120; frame += 1) {
  const place = (i) => (frame * 0.013 + i * 0.1) % 1;
  const omegas = Object.fromEntries(page.names.map((name, i) => [name, place(i)]));
  const begin = performance.now();
  for (const name of page.datasets.keys()) page.predict(name, omegas);
  page.slopes(omegas);
  page.lines(omegas, page.names, values);
  spent.push(performance.now() - begin);
}
console.log(JSON.stringify({ prepared, rest: spent.slice(20).sort((a, b) => a - b) }));
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Predict and measure random moves, time a frame, and print two tables."""
    moves = {"type": int, "default": 24, "help": "moves of a round (default: 24)"}
    demo = {"type": Path, "default": machine.DEMO, "help": "a folder with base/ and data/"}
    options = machine.begin(__file__, __doc__, argv, rounds=3, moves=moves, demo=demo)
    rows = [row for seed in range(options.rounds) for row in _round(options, seed)]
    head = ["known before", "predictions", "mean error of the share", "within 1 s.e.", "within 2"]
    lines = []
    for low in range(2, options.moves + 2, 8):
        some = [row for row in rows if low <= row["known"] < low + 8]
        if not some:
            continue
        errors = [abs(row["share"]) for row in some]
        inside = [sum(row["off"] <= limit for row in some) / len(some) for limit in (1, 2)]
        lines.append(
            [
                f"{low} to {low + 7} compositions",
                str(len(some)),
                f"{100 * sum(errors) / len(errors):.1f} %",
                *(f"{100 * part:.0f} %" for part in inside),
            ]
        )
    machine.show(head, lines)
    frame = _frame()
    machine.show(
        [f"{SLIDERS} sliders, {DATASETS} datasets", "median", "slowest"],
        [
            ["a frame of a drag", f"{frame['rest'][50]:.1f} ms", f"{frame['rest'][-1]:.1f} ms"],
            ["what is prepared while the page is idle", f"{frame['prepared']:.0f} ms", ""],
        ],
    )


def _round(options: Any, seed: int) -> list[dict[str, float]]:
    """Return, for each prediction, how many compositions were known, and how far it was off."""
    import numpy as np

    from evaluation.search.surrogate import fit
    from workbench.search.forecast import gathered
    from workbench.search.points import Points
    from workbench.session.session import Session

    rng, rows = np.random.default_rng(seed), []
    with TemporaryDirectory() as folder:
        session = Session([], Path(folder), demo=options.demo)
        session.open_demo()
        try:
            models = session.models
            points, names = Points(session, models), models.names
            here = dict(models.best or dict.fromkeys(names, 0.5))
            for omegas in (here, dict.fromkeys(names, 0.0)):
                points.measure(omegas, True, lambda: False)
            ends = session.baselines()
            for known in range(2, options.moves + 2):
                here = here | {names[rng.integers(len(names))]: round(float(rng.uniform()), 4)}
                surrogates = fit(names, gathered(session.book, models))
                at = np.array([[here[name] for name in names]])
                guesses = {name: each.predict(at) for name, each in surrogates.items()}
                measured = points.measure(here, True, lambda: False)
                for name, guess in guesses.items():
                    base, expert = ends[name]
                    off = float(guess.mean[0]) - measured.losses[name]
                    width = base.value - expert.value if expert else float("nan")
                    off_in_errors = abs(off) / float(guess.error[0])
                    rows.append({"known": known, "share": off / width, "off": off_in_errors})
        finally:
            session.close()
    return rows


def _frame() -> dict[str, Any]:
    """Return the milliseconds of frames in node."""
    import numpy as np
    import playwright

    from evaluation.search import Measured, Trial
    from evaluation.search.surrogate import fit
    from workbench.search.forecast import ROWS, surrogate_data

    rng = np.random.default_rng(0)
    names = [f"v{number}" for number in range(SLIDERS)]
    datasets = [f"d{number}" for number in range(DATASETS)]
    known = []
    for x in rng.uniform(0, 1, (ROWS, SLIDERS)):
        losses = {
            name: float(((x - place / DATASETS) ** 2).sum()) for place, name in enumerate(datasets)
        }
        known.append(Trial(dict(zip(names, x.tolist(), strict=True)), 0.0, Measured(losses)))
    document = {
        "names": names,
        "points": [list(trial.point.values()) for trial in known],
        "sloped": [False] * ROWS,
        "low": [0.0] * SLIDERS,
        "high": [1.0] * SLIDERS,
        "models": "",
        "count": ROWS,
        "datasets": {
            name: surrogate_data(each) | {"base": 1.0, "expert": 0.0}
            for name, each in fit(names, known).items()
        },
    }
    node = Path(playwright.__file__).parent / "driver" / "node"
    with TemporaryDirectory() as folder:
        script = Path(folder) / "frame.cjs"
        script.write_text(SCRIPT, "utf-8")
        done = subprocess.run(
            [node, script, machine.ROOT / "assets" / "live" / "forecast.js"],
            input=json.dumps(document),
            env=os.environ,
            capture_output=True,
            text=True,
            check=True,
        )
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main()
