"""Claim: new losses are on the page 0.3 s after the last input, while ten pages do the same.

    python -m benchmarks.live_line [--rounds 30] [--seconds 60] [--pages 10] [--demo FOLDER]
                                   [--large 135M]

The page is the real one, in Chromium, with a server in a process of its own. The clock starts at
the last input event in the browser, so it counts every wait: `first answer` is the line that says
what was composed, `losses` the first ones of all datasets, `full losses` those of all examples.
Each round moves one slider to a value that was not measured before. `composed` is the part of the
first answer in which the server computes the weights. `the model alone` is the time of the forward
passes that full losses take, in a process that does nothing else: as the server computes them, with
torch's own threads, and with one thread.

Then a drag of 60 moves: how long the page's own thread was blocked in all, and how many states were
composed. Then several pages drag at once for a while; each must come to rest at its own last value.
The wait is counted from the moment when the hand lets go.

At the end the same moves with a model of 135 million parameters in bfloat16, with random weights in
the shapes of SmolLM2-135M, and the data of the demo. The next move comes as soon as the losses of a
few examples are there, so each move interrupts the full losses of the one before.
"""

import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks import machine, shapes

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

MOVE = """([name, value, last]) => new Promise((done, failed) => {
  const line = window.dem.line, begin = performance.now(), seen = {};
  const late = () => failed(new Error(`the answer is late by 60 s: ${JSON.stringify(seen)}`));
  const timer = setTimeout(late, 60000);
  const stop = line.listen((state, event) => {
    if (event?.type !== 'line' || event.message.turn !== state.turn) return;
    const { stage, points, whole } = event.message;
    const all = points && Object.keys(points).length === state.info.data.length;
    requestAnimationFrame(() => {
      const now = (performance.now() - begin) / 1000;
      if (stage === 'settled') { seen.first ??= now; seen.composed ??= event.message.seconds; }
      if (all) seen.losses ??= now;
      if (stage === 'full' && whole) seen.full ??= now;
      if (seen[last]) { clearTimeout(timer); stop(); done(seen); }
    });
  });
  line.event({ type: 'omega', name, value, at: begin });
})"""

DRAG = """async () => {
  const line = window.dem.line, range = document.querySelector('.omega input[type=range]');
  let blocked = 0, settled = 0;
  const watch = new PerformanceObserver((list) => {
    for (const task of list.getEntries()) blocked += task.duration;
  });
  watch.observe({ entryTypes: ['longtask'] });
  const stop = line.listen((state, event) => {
    if (event?.message?.stage === 'settled') settled += 1;
  });
  range.dispatchEvent(new PointerEvent('pointerdown'));
  for (let n = 0; n < 60; n += 1) {
    range.value = -0.5 + n / 40;
    range.dispatchEvent(new Event('input', { bubbles: true }));
    await new Promise((go) => setTimeout(go, 16));
  }
  range.dispatchEvent(new PointerEvent('pointerup'));
  while (line.state.sent || line.state.dirty) await new Promise((go) => setTimeout(go, 20));
  stop();
  return { blocked, settled };
}"""

SWARM = """async ([seconds, seed]) => {
  const line = window.dem.line, names = line.state.info.vectors.map((one) => one.name), waits = [];
  let random = seed;
  const next = () => (random = (random * 48271) % 2147483647) / 2147483647;
  const end = performance.now() + 1000 * seconds;
  while (performance.now() < end) {
    const name = names[Math.floor(next() * names.length)];
    line.event({ type: 'held', held: true });
    for (let n = 0; n < 10; n += 1) {
      const value = Math.round((next() * 3 - 1) * 1e4) / 1e4;
      line.event({ type: 'omega', name, value, at: performance.now() });
      await new Promise((go) => setTimeout(go, 30));
    }
    const begin = performance.now();
    line.event({ type: 'held', held: false });
    while (line.state.sent || line.state.dirty) {
      if (performance.now() - begin > 60000) throw new Error('an answer is late by 60 s');
      await new Promise((go) => setTimeout(go, 10));
    }
    waits.push((performance.now() - begin) / 1000);
  }
  const { omegas, settled } = line.state;
  let answer;
  do { // until the server has stored what the page came to rest at
    await new Promise((go) => setTimeout(go, 100));
    answer = await (await fetch(`live/open?recipe=${settled.digest}`)).json();
  } while (answer.note && performance.now() < end + 60000);
  return { waits, arrived: JSON.stringify(answer.state.omegas) === JSON.stringify(omegas) };
}"""


def main(argv: Sequence[str] | None = None) -> None:
    """Open the page in a browser, move its sliders, and print how long the answers took."""
    options = machine.begin(
        __file__,
        __doc__,
        argv,
        rounds=30,
        demo={"type": Path, "default": machine.DEMO, "help": "a folder with base/ and data/"},
        pages={"type": int, "default": 10, "help": "pages that drag at once (default: 10)"},
        seconds={"type": float, "default": 60, "help": "how long they drag (default: 60)"},
        large={
            "choices": [*shapes.SIZES, "none"],
            "default": "135M",
            "help": "size of the larger model (default: 135M)",
        },
    )
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("PLAYWRIGHT_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        loading, alone = model_alone(options.demo)
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        with serving(options.demo, Path(name)) as address:
            page, opening = opened(browser, address)
            show_moves(moves(page, options.rounds, "full"), alone)
            print(f"{opening}; imports and loading the base, with nothing else, {loading:.1f} s")
            show_drag(page.evaluate(DRAG))
            page.close()  # an open page takes time of the two cores, also at rest
            show_swarm(dragging(browser, address, options.pages, options.seconds))
        browser.close()
        if options.large != "none":
            # In a new browser, which has drawn nothing yet.
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            with large_demo(options.large, options.demo) as folder:
                show_large(browser, folder, Path(name) / "large", options)
            browser.close()


def opened(browser: Any, address: str) -> tuple[Any, str]:
    """Opens the page until it rests, and says when its parts were there."""
    begin = time.perf_counter()
    page = browser.new_page()
    page.goto(address)
    loaded = time.perf_counter() - begin
    page.locator("#controls .live").wait_for(state="attached", timeout=120_000)
    drawn = time.perf_counter() - begin
    page.locator(".omega").first.wait_for(timeout=120_000)
    usable = time.perf_counter() - begin
    page.wait_for_function("window.dem.line.state.info.models", timeout=120_000)
    ready = time.perf_counter() - begin
    page.locator("section.bullets[data-stage=exact]").wait_for(timeout=600_000)
    rest = time.perf_counter() - begin
    return page, (
        f"\nfrom the server's first answer: page loaded {loaded:.1f} s, drawn by gradio "
        f"{drawn:.1f} s, sliders usable {usable:.1f} s (target 3), models open {ready:.1f} s, "
        f"all losses {rest:.1f} s"
    )


@contextmanager
def large_demo(size: str, demo: Path) -> Iterator[Path]:
    """Yields a folder like that of the demo, with checkpoints of another size."""
    names = sorted(folder.name for folder in (demo / "data").iterdir())
    with shapes.checkpoints(size, len(names)) as folder:
        for number, name in enumerate(names):
            (folder / f"expert{number}").rename(folder / name)
        shutil.copytree(demo / "data", folder / "data")
        for file in (demo / "base").glob("*token*"):
            shutil.copy(file, folder / "base")
        yield folder


def show_large(browser: Any, demo: Path, workdir: Path, options: Any) -> None:
    """Prints the times of the moves with a larger model."""
    with serving(demo, workdir) as address:
        page = browser.new_page()
        page.goto(address)
        # Opening the models, and what the first pass of a model costs, is no move.
        page.wait_for_function(
            """() => { const { losses, info } = window.dem?.line?.state ?? {};
            return losses && Object.keys(losses.points).length === info.data.length; }""",
            timeout=600_000,
        )
        rows = moves(page, options.rounds, "losses")
        page.close()
    print(f"\nthe model has {shapes.parameters(options.large):,} parameters in bfloat16")
    show_moves(rows, {}, {"first": "0.3", "losses": "3"})


def late(values: Sequence[float]) -> float:
    """Returns the 95th percentile."""
    return sorted(values)[int(0.95 * (len(values) - 1))]


TARGETS = {"first": "0.1", "losses": "0.3, p95 0.5", "full": "1.7"}


def show_moves(
    rows: list[dict[str, float]], alone: dict[str, float], targets: dict[str, str] = TARGETS
) -> None:
    """Prints the times of the moves."""
    table = []
    for key, what in (
        ("first", "first answer"),
        ("composed", "of it, composed"),
        ("losses", "losses"),
        ("full", "full losses"),
    ):
        # With a large model the next move interrupts the full losses.
        if took := [row[key] for row in rows if key in row]:
            median, worst = f"{statistics.median(took):.3f}", f"{late(took):.3f}"
            table.append([what, median, worst, targets.get(key, "")])
    table += [[f"the model alone, {how}", f"{took:.3f}", "", ""] for how, took in alone.items()]
    machine.show(["from the last input to", "median, s", "p95, s", "target, s"], table)


def show_drag(drag: dict[str, float]) -> None:
    """Prints what a drag cost."""
    print(
        f"a drag of 60 moves: {drag['settled']:.0f} states composed, "
        f"page blocked for {drag['blocked']:.0f} ms (target 200)"
    )


def show_swarm(swarm: dict[str, Any]) -> None:
    """Prints how long the pages that drag at once waited."""
    print(
        f"{swarm['pages']} pages at once: {len(swarm['waits'])} rests, "
        f"p95 {late(swarm['waits']):.2f} s (target 1), "
        f"last values arrived: {swarm['arrived']} of {swarm['pages']}; "
        f"cores busy with the browser {swarm['browser']:.2f}, with the server {swarm['server']:.2f}"
    )


def model_alone(demo: Path) -> tuple[float, dict[str, float]]:
    """Returns the seconds until the base is loaded, and those of all losses.

    The losses are computed in three ways in turn; each way has the median of three passes.
    """
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # as in the server, before torch is imported
    begin = time.perf_counter()
    import torch

    from corpus import read_datasets
    from evaluation import loss
    from evaluation.model import load
    from evaluation.prepared import prepare
    from merging.inputs.checkpoint import Checkpoint

    loaded = load(demo / "base", checkpoint=Checkpoint(demo / "base"))
    loading = time.perf_counter() - begin
    prepared = prepare(read_datasets(demo / "data", "validation"), loaded.tokenizer)
    ways = {
        "side by side": (loss.SMALL, torch.get_num_threads()),
        "torch's threads": (0, torch.get_num_threads()),
        "one thread": (0, 1),
    }
    times: dict[str, list[float]] = {how: [] for how in ways}
    for _ in range(4):
        for how, (loss.SMALL, threads) in ways.items():
            torch.set_num_threads(threads)
            begin = time.perf_counter()
            list(loss.losses(loaded.module, prepared))
            times[how].append(time.perf_counter() - begin)
    loss.SMALL, threads = ways["side by side"]
    torch.set_num_threads(threads)
    # The first pass allocates memory.
    return loading, {how: statistics.median(took[1:]) for how, took in times.items()}


@contextmanager
def serving(demo: Path, folder: Path) -> Iterator[str]:
    """Runs the server while the block lasts, and gives its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, str(machine.ROOT / "app.py"), "--port", str(port), "--demo", str(demo)]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(
        [*words, "--workdir", str(folder / "workdir")],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        while True:
            try:
                urllib.request.urlopen(address, timeout=1)
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def moves(page: Any, rounds: int, last: str) -> list[dict[str, float]]:
    """Moves one slider per round and returns the seconds until each part of the answer.

    Args:
        page: the page, at rest.
        rounds: the number of moves.
        last: the part of the answer after which the next move comes: "losses" or "full".
    """
    # The answer to the prompt is not part of the claim, and it comes before the full losses.
    page.evaluate("window.dem.line.event({ type: 'prompt', text: '' })")
    names = page.evaluate("window.dem.line.state.info.vectors.map((one) => one.name)")
    dice = random.Random(0)
    return [
        page.evaluate(MOVE, [dice.choice(names), round(dice.uniform(-0.5, 1.5), 4), last])
        for _ in range(rounds)
    ]


def cpu_seconds() -> dict[str, float]:
    """Returns the CPU seconds that the server and the browser's processes have taken so far."""
    taken = {"server": 0.0, "browser": 0.0}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            times, words = process.cpu_times(), process.cmdline()
            taken["server" if str(machine.ROOT / "app.py") in words else "browser"] += sum(
                times[:2]
            )
    return taken


def dragging(browser: Any, address: str, count: int, seconds: float) -> dict[str, Any]:
    """Lets several pages drag at once; returns the waits of all, and how many values arrived."""
    pages = [browser.new_context().new_page() for _ in range(count)]
    for page in pages:
        page.goto(address)
        page.locator(".omega").first.wait_for(timeout=120_000)
        page.evaluate("window.dem.line.event({ type: 'prompt', text: '' })")
    before, begin = cpu_seconds(), time.perf_counter()
    # Started without waiting for the end, so that all drag at the same time.
    for number, page in enumerate(pages):
        page.evaluate(f"() => {{ window.swarm = ({SWARM})([{seconds}, {number + 1}]); }}")
    results = [page.evaluate("() => window.swarm") for page in pages]
    took = time.perf_counter() - begin
    # The processes of pages that are closed would be missing.
    busy = {who: (seconds - before[who]) / took for who, seconds in cpu_seconds().items()}
    for page in pages:
        page.context.close()
    return busy | {
        "waits": [wait for result in results for wait in result["waits"]],
        "arrived": sum(result["arrived"] for result in results),
        "pages": count,
    }


if __name__ == "__main__":
    main()
