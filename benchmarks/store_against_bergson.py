"""Claim: a datastore takes no more time than bergson's collector, and 1/10 with one projection.

    python -m benchmarks.store_against_bergson [--examples 200] [--rounds 3]
        [--python .venv-influence/bin/python]

The gradients of an adapter, for training examples of the demo, are projected and written to the
disk: by `dem influence store` to 8,192 numbers for each example, and by bergson 2.5.1 in its two
ways. "Each matrix alone" multiplies the gradient of each matrix from both sides, to 16 × 16 numbers
for each matrix, which is cheap. "All together" is one random projection of the whole gradient to
8,192 numbers, which is what LESS asks for, and what ours is. Each runs in a process of its own, on
one thread, and is compared by CPU time without the start of the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine

DIMENSION = 8192
SIDE = 16
"""bergson's numbers on a side, when each matrix is projected alone."""
SCRIPT = machine.ROOT / "tests" / "influence" / "gradients" / "run_bergson.py"
WAYS = {"bergson, each matrix alone": ("per_module", 1.0), "bergson, all together": ("global", 0.1)}
"""What ours is compared with -> bergson's name of it, and the largest share of its time."""


def main(argv: Sequence[str] | None = None) -> None:
    """Store the gradients in each way in turn, and print the times."""
    python = machine.ROOT / ".venv-influence" / "bin" / "python"
    options = machine.begin(
        __file__, __doc__, argv, rounds=3,
        examples={"type": int, "default": 200, "help": "how many examples (default: 200)"},
        python={"type": Path, "default": python, "help": "the Python of bergson's environment"},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        study, request = _prepared(Path(folder), options.examples)
        costs: dict[str, list[float]] = {"ours": [], **{way: [] for way in WAYS}}
        for round in range(options.rounds):
            for way in list(costs)[:: -1 if round % 2 else 1]:
                costs[way].append(
                    _ours(study) if way == "ours" else _theirs(options.python, request, way)
                )
    rows = []
    for way, taken in costs.items():
        speed = machine.spread([options.examples / seconds for seconds in taken])
        cells = [way, speed.text(".1f")]
        if way in WAYS:
            pairs = zip(costs["ours"], taken, strict=True)
            share = machine.spread([ours / theirs for ours, theirs in pairs])
            cells += [share.text(), machine.target(share.median, WAYS[way][1])]
        rows.append([*cells, *[""] * (4 - len(cells))])
    machine.show(["datastore", "examples per CPU second", "time of ours", "target"], rows)


def _prepared(folder: Path, count: int) -> tuple[Path, Path]:
    """Returns a study whose warm-up is finished, and bergson's request for the same gradients."""
    from corpus import write_jsonl
    from corpus.tokens import encode_all
    from training.run.base import open_base
    from workbench.influence_runs.projected_gradients import warm_epochs
    from workbench.influence_runs.study import WarmUp, begin_study
    from workbench.influence_runs.warm_up import warm_up
    from workbench.plans.recorded_run import Watcher

    records = machine.records(machine.DEMO, "train", count)
    write_jsonl(folder / "pool" / "all" / "train.jsonl", records)
    base = str(machine.DEMO / "base")
    settings = WarmUp(share=0.2, epochs=1, rate=1e-3)
    study, pool = begin_study(folder / "study", base, folder / "pool", "train", settings)
    warm_up(study, pool, Watcher())
    (epoch,) = warm_epochs(study)
    encoded, _ = encode_all(records, open_base(Path(base)).tokenizer)
    request = folder / "request.json"
    asked: dict[str, Any] = {
        "model": str(epoch.folder),
        "examples": [(each.ids.tolist(), each.supervised.tolist()) for each in encoded],
        "batch_tokens": 2048,
    }
    request.write_text(json.dumps(asked))
    return study.folder, request


def _ours(study: Path) -> float:
    """Returns the CPU seconds of our datastore, which is then removed."""
    code = f"from benchmarks.{Path(__file__).stem} import store; store({str(study)!r})"
    return float(_run([sys.executable, "-c", code]))


def store(folder: str) -> None:
    """Store the gradients of a study, print the CPU seconds, and remove them."""
    import shutil
    import time

    from influence.projection.projector import Projection
    from workbench.influence_runs.gradient_store import store_gradients
    from workbench.influence_runs.study import open_study

    study = open_study(Path(folder))
    start = time.process_time()
    store_gradients(study, "sgd", Projection(dimension=DIMENSION))
    print(time.process_time() - start)
    shutil.rmtree(study.store("sgd"))


def _theirs(python: Path, request: Path, way: str) -> float:
    """Returns the CPU seconds of bergson's collector."""
    import numpy as np

    target = WAYS[way][0]
    size = SIDE if target == "per_module" else DIMENSION
    asked = json.loads(request.read_text()) | {"size": size, "target": target}
    own, answer = request.with_name("asked.json"), request.with_name("answer.npz")
    own.write_text(json.dumps(asked))
    _run([str(python), "-W", "ignore", str(SCRIPT), str(own), str(answer)])
    return float(np.load(answer)["seconds"])


def _run(words: Sequence[str]) -> str:
    """Run a command in the project's folder on one thread, and return what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        words, check=True, cwd=machine.ROOT, env=environment, capture_output=True, text=True
    ).stdout


if __name__ == "__main__":
    main()
