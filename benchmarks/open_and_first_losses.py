"""Claim: a page that opens composes each composition once, and shows bars before all are exact.

    python -m benchmarks.open_and_first_losses
        [--rounds 3] [--demo FOLDER] [--large 0.5B] [--examples 24] [--questions 2] [--answers]

A base with its experts and its validation data is opened, and a page asks for the best known ω, or
for ω = 1/n where none are known: the same session and the same live line as behind the real page,
without a browser. Each round has a process and a workdir of its own. Imports of torch and
transformers are not counted.

`compositions` are those whose losses the page needs and does not know: the one that the sliders
show, the base, and each expert that has a dataset. `times composed` counts the calls of
LiveModel.apply until all losses are exact. The clock of `first losses`, `first bar`, `all bars` and
`all exact` starts when the page asks. A bar needs the losses of the composition, of the base and of
the expert. `again` is a second server on the same workdir, which knows what the first one measured.
The memory is that of the process (RSS) at rest, before, during and after a benchmark of the suite
`demo` with a few questions per task.

With --answers a prompt is asked too, of the composition and of the base beside it, as on the page.
With --examples the datasets are others than those whose losses the demo ships, so all are measured.
With --large the base and its experts have random weights in bfloat16 in the shapes of a real model,
and the data of the demo.
"""

import gc
import multiprocessing
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks import machine, shapes
from benchmarks.live_line import large_demo

if TYPE_CHECKING:
    from workbench.session.session import Session

ROWS = {
    "opening, CPU s": ".2f",
    "opening, s": ".2f",
    "compositions": ".0f",
    "times composed": ".0f",
    "first losses, s": ".2f",
    "first bar, s": ".2f",
    "all bars, s": ".2f",
    "all exact, s": ".2f",
    "again: times composed": ".0f",
    "again: all exact, s": ".2f",
    "memory before a benchmark, MB": ".0f",
    "highest in it, MB": ".0f",
    "after it, MB": ".0f",
}
"""What is measured -> the format of its numbers."""
LONGEST = 3_600.0
"""Seconds after which a benchmark counts as hanging."""


def main(argv: Sequence[str] | None = None) -> None:
    """Open the models in processes of their own, and print a table."""
    options = machine.begin(
        __file__,
        __doc__,
        argv,
        rounds=3,
        demo={"type": Path, "default": machine.DEMO, "help": "a folder with base/ and data/"},
        large={
            "choices": [*shapes.SIZES, "none"],
            "default": "none",
            "help": "random weights of this size instead of the demo's (default: none)",
        },
        examples=machine.number(0, "validation examples per dataset; 0 for all"),
        questions=machine.number(2, "questions per task of the benchmark"),
        answers={"action": "store_true", "help": "ask a prompt too, with the base beside it"},
    )
    with opened_folder(options.demo, options.large, options.examples) as folder:
        context = multiprocessing.get_context("spawn")
        rounds = []
        for _ in range(options.rounds):
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                rounds.append(
                    pool.submit(measure, folder, options.questions, options.answers).result()
                )
    machine.show(
        ["what", "median (lowest–highest)"],
        [
            [what, machine.spread([each[what] for each in rounds]).text(form)]
            for what, form in ROWS.items()
        ],
    )


@contextmanager
def opened_folder(demo: Path, large: str, examples: int) -> Iterator[Path]:
    """Yield a folder with a base, its experts and data, with so many examples per dataset."""
    if large != "none":
        with large_demo(large, demo) as folder:
            shorten(folder / "data", examples)
            yield folder
    elif examples:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "demo"
            shutil.copytree(demo, folder)
            shorten(folder / "data", examples)
            yield folder
    else:
        yield demo


def shorten(data: Path, examples: int) -> None:
    """Keep the first examples of each validation set; 0 keeps all."""
    for file in data.glob("*/validation.jsonl") if examples else ():
        lines = file.read_text("utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[:examples]), "utf-8")


def measure(folder: Path, questions: int, answers: bool) -> dict[str, float]:
    """Open a folder, wait for its losses and run a benchmark; return the numbers of ROWS."""
    import torch
    import transformers

    from merging.live.live_model import LiveModel

    # The first use of a class imports its file.
    _ = torch.__version__, transformers.AutoModelForCausalLM
    applied: list[str] = []
    apply = LiveModel.apply

    def counted(live: LiveModel, recipe: Any, *more: Any) -> Any:
        applied.append(recipe.digest)
        return apply(live, recipe, *more)

    # The method of the class, because each session makes its own live model.
    setattr(LiveModel, "apply", counted)  # noqa: B010
    with tempfile.TemporaryDirectory() as name:
        with opened(folder, Path(name)) as (session, cost):
            numbers = {"opening, CPU s": cost.cpu, "opening, s": cost.seconds}
            numbers |= asked(session, applied, answers) | benchmarked(session, questions)
        applied.clear()
        with opened(folder, Path(name)) as (session, _):
            again = asked(session, applied, answers=False)
    return numbers | {f"again: {what}": again[what] for what in ("times composed", "all exact, s")}


@contextmanager
def opened(folder: Path, workdir: Path) -> Iterator[tuple["Session", machine.Cost]]:
    """Open a folder like the demo's; yield the session, and what opening the models cost."""
    from workbench.session.session import Session

    session = Session([], workdir, demo=folder)
    try:
        cost = machine.timed(session.open_demo)
        if not session.ready:
            raise SystemExit(session.problem)
        yield session, cost
    finally:
        session.close()


def asked(session: "Session", applied: list[str], answers: bool) -> dict[str, float]:
    """Ask for the losses as a page does, until all are exact.

    Args:
        session: with open models and data.
        applied: gets the digest of each recipe that is composed.
        answers: whether a prompt is asked too, with the base's answer beside the page's own.
    """
    from workbench.line.continuation import asked_of, continuation
    from workbench.line.contract import Wish
    from workbench.line.routes import Line

    models = session.models
    omegas = models.preset("best" if models.best else "uniform")
    wish = Wish(
        "page-of-the-benchmark",
        1,
        models.key,
        "task_arithmetic",
        {},
        dict(zip(models.names, omegas, strict=True)),
        prompt=next(iter(models.data.values())).prompts[0].text if answers else "",
    )
    beside = threading.Thread(
        target=lambda: list(
            continuation(
                session,
                models,
                session.recipe({}),
                asked_of(models, wish.prompt, plain=False),
                gives_way=True,
            )
        )
    )
    line, messages, seen = Line(session), queue.SimpleQueue[dict[str, Any] | None](), {}
    begin = time.perf_counter()
    cancel = line.start(wish, messages.put)
    while (message := messages.get()) is not None:
        if message["stage"] in ("refused", "empty", "behind"):
            raise SystemExit(message.get("message", message["stage"]))
        now = time.perf_counter() - begin
        if message["stage"] == "settled" and answers:
            beside.start()
        points = message.get("points", {})
        bars = [point for point in points.values() if point["base"] is not None]
        if points:
            seen.setdefault("first losses, s", now)
        if bars:
            seen.setdefault("first bar, s", now)
        if len(bars) == len(models.data):
            seen.setdefault("all bars, s", now)
        if message.get("whole"):
            # Then come derivatives, which no bar needs.
            seen |= {
                "all exact, s": now,
                "times composed": len(applied),
                "compositions": len(set(applied)),
            }
            break
    cancel()
    line.close()
    if answers:
        beside.join()
    return seen


def benchmarked(session: "Session", questions: int) -> dict[str, float]:
    """Run a benchmark job; return the memory before it, at its highest, and after it."""
    from workbench.jobs import benchmark

    process, held, done = psutil.Process(), list[int](), threading.Event()

    def sample() -> None:
        while not done.wait(machine.SAMPLE):
            held.append(process.memory_info().rss)

    gc.collect()
    before = process.memory_info().rss
    sampler = threading.Thread(target=sample)
    sampler.start()
    job = benchmark.submit(session, session.recall(""), "demo", limit=questions)
    job = session.jobs.wait(job.id, LONGEST)
    done.set()
    sampler.join()
    if job.state != "done":
        raise SystemExit(f"the benchmark {job.state}: {job.error}")
    gc.collect()
    after = process.memory_info().rss
    return {
        "memory before a benchmark, MB": before / 1e6,
        "highest in it, MB": max(held) / 1e6,
        "after it, MB": after / 1e6,
    }


if __name__ == "__main__":
    main()
