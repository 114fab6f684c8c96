"""Claim: a loss with its derivatives takes at most 3 times as long as the loss, for adapters.

    python -m benchmarks.derivatives_of_adapters
        [--demo $(dem real path)] [--batches 2] [--rounds 3]

The first batches of the dataset with the fewest positions, at ω = 0.3 of all adapters of a demo.
The derivatives with respect to all ω are computed by the adapters' factors, which is what the page
does, and by gradients of the weights, which is what dense vectors need. Each run has a process of
its own, with as many threads as a page has. It measures the loss alone, then its contender. A ratio
is computed within the run, and its memory is the peak of the process with the open models. The last
column is the longest time in which a step does not ask whether somebody waits for the model.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import machine

TARGET = 3.0
WAYS = ("loss alone", "by factors", "by weights")


def main(argv: Sequence[str] | None = None) -> None:
    """Run all ways in turn, and print their times and peaks."""
    demo = {"type": Path, "default": machine.DEMO, "help": "a folder with base/ and data/"}
    batches = {"type": int, "default": 2, "help": "batches of the dataset (default: 2)"}
    options = machine.begin(__file__, __doc__, argv, rounds=3, demo=demo, batches=batches)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            runs[way].append(_run(options.demo, way, options.batches))
    rows = []
    for way, each in runs.items():
        ratio = machine.spread([run["seconds"] / run["loss"] for run in each])
        peak = machine.spread([run["peak"] / 1e6 for run in each])
        rows.append(
            [
                way,
                machine.spread([run["seconds"] for run in each]).text(),
                ratio.text(),
                machine.target(ratio.median, TARGET) if way == "by factors" else "",
                peak.text(".0f"),
                machine.spread([run["silence"] for run in each]).text(),
            ]
        )
    machine.show(
        ["what", "seconds", "against the loss", "target", "peak MB", "longest silence, s"], rows
    )


def _run(demo: Path, way: str, batches: int) -> dict[str, float]:
    """Measure one way in a process of its own."""
    code = "import sys; from benchmarks.derivatives_of_adapters import measure; "
    code += "measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
    words = [sys.executable, "-c", code, str(demo), way, str(batches)]
    done = subprocess.run(words, check=True, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(demo: str, way: str, batches: int) -> None:
    """Measure one way in this process; print its seconds, those of the loss, and the peak."""
    import resource
    import time
    from itertools import pairwise

    from evaluation.landscape.omega_gradient import SlopeSweep
    from evaluation.landscape.slope_paths import SlopePaths
    from evaluation.loss import Sweep
    from workbench.session.loss_on_axis import FULL
    from workbench.session.session import Session

    asked: list[float] = []

    def never() -> bool:
        asked.append(time.perf_counter())
        return False

    with TemporaryDirectory() as folder:
        session = Session([], Path(folder), demo=Path(demo))
        session.open_demo()
        models = session.models
        prepared = [data.prepared[FULL] for data in models.data.values()]
        (dataset,) = min(prepared, key=lambda each: each.positions).datasets
        dataset = dataset._replace(batches=dataset.batches[:batches])
        adapters = [models.vectors[name] for name in models.adapters]
        recipe = models.recipe(dict.fromkeys(models.adapters, 0.3))
        with session.composed(models, recipe) as module:

            def loss() -> None:
                sweep = Sweep([dataset])
                while not sweep.done:
                    sweep.step(module, never)

            def derivatives() -> None:
                paths = SlopePaths(module, models.loaded.views, adapters)
                if way == "by weights":
                    names = [view.parameter for view in paths.tensors.values()]
                    paths.weighted = {name: paths.parameter(name) for name in names}
                    paths.owners = {}
                sweep = SlopeSweep(paths, dataset)
                while not sweep.done:
                    sweep.step(never)
                sweep.slope()

            loss()  # takes memory for the first time
            alone = machine.timed(loss)
            asked.clear()
            cost = machine.timed(loss if way == "loss alone" else derivatives)
        session.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * machine.MAXRSS
    silence = max(late - early for early, late in pairwise(asked))
    found = {"seconds": cost.seconds, "loss": alone.seconds, "peak": peak, "silence": silence}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
