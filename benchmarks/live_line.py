"""Claim: new losses are on the page 0.3 s after the last input, while ten pages do the same.

    python -m benchmarks.live_line [--rounds 30] [--seconds 60] [--pages 10] [--demo FOLDER]

The page is the real one, in Chromium, with a server in a process of its own. The clock starts at
the last input event in the browser, so it counts every wait: `first answer` is the line that says
what was composed, `losses` the first ones of all datasets, `full losses` those of all examples.
Each round moves one slider to a value that was not measured before.

Then a drag of 60 moves: how long the page's own thread was blocked in all, and how many states were
composed. At the end several pages drag at once for a while; each must come to rest at its own last
value.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import machine

DEMO = machine.ROOT / "assets" / "demo"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

MOVE = """([name, value]) => new Promise((done) => {
  const line = window.dem.line, begin = performance.now(), seen = {};
  const stop = line.listen((state, event) => {
    if (event?.type !== 'line' || event.message.turn !== state.turn) return;
    const { stage, points, whole } = event.message;
    const all = points && Object.keys(points).length === state.info.data.length;
    requestAnimationFrame(() => {
      const now = (performance.now() - begin) / 1000;
      if (stage === 'settled') seen.first ??= now;
      if (all) seen.losses ??= now;
      if (stage === 'full' && whole) { seen.full ??= now; stop(); done(seen); }
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
    for (let n = 0; n < 10; n += 1) {
      const value = Math.round((next() * 3 - 1) * 1e4) / 1e4;
      line.event({ type: 'omega', name, value, at: performance.now() });
      await new Promise((go) => setTimeout(go, 30));
    }
    const begin = performance.now();
    while (line.state.sent || line.state.dirty) await new Promise((go) => setTimeout(go, 10));
    waits.push((performance.now() - begin) / 1000);
  }
  const { omegas, settled } = line.state;
  const answer = await (await fetch(`live/open?recipe=${settled.digest}`)).json();
  return { waits, arrived: JSON.stringify(answer.state.omegas) === JSON.stringify(omegas) };
}"""


def main(argv: Sequence[str] | None = None) -> None:
    """Open the page in a browser, move its sliders, and print how long the answers took."""
    demo = {"type": Path, "default": DEMO, "help": "another folder with base/ and data/"}
    pages = {"type": int, "default": 10, "help": "pages that drag at once (default: 10)"}
    seconds = {"type": float, "default": 60, "help": "how long they drag (default: 60)"}
    options = machine.begin(
        __file__, __doc__, argv, rounds=30, demo=demo, pages=pages, seconds=seconds
    )
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("PLAYWRIGHT_CHROMIUM") or shutil.which("chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(options.demo, Path(folder)) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        begin = time.perf_counter()
        page = browser.new_page()
        page.goto(address)
        page.locator(".omega").first.wait_for(timeout=120_000)
        usable = time.perf_counter() - begin
        rest(page)
        rows = moves(page, options.rounds)
        drag = page.evaluate(DRAG)
        swarm = dragging(browser, address, options.pages, options.seconds)
        browser.close()
    targets = {"first": (0.1, 0.1), "losses": (0.3, 0.5), "full": (1.7, 1.7)}
    table = []
    for key, what in (("first", "first answer"), ("losses", "losses"), ("full", "full losses")):
        took = sorted(row[key] for row in rows)
        median, late = took[len(took) // 2], took[int(0.95 * (len(took) - 1))]
        table.append([what, f"{median:.3f}", f"{late:.3f}", "{:g}, {:g}".format(*targets[key])])
    machine.show(["from the last input to", "median, s", "p95, s", "targets, s"], table)
    late = sorted(swarm["waits"])[int(0.95 * (len(swarm["waits"]) - 1))]
    blocked, settled = drag["blocked"], drag["settled"]
    print(f"\nsliders usable {usable:.1f} s after the server's first answer (target 3 s)")
    print(f"a drag of 60 moves: {settled} states composed, blocked {blocked:.0f} ms (target 200)")
    print(
        f"{options.pages} pages for {options.seconds:g} s: {len(swarm['waits'])} rests, "
        f"p95 {late:.2f} s (target 1), last values arrived: {swarm['arrived']} of {options.pages}"
    )


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


def rest(page: Any) -> None:
    """Waits until a page rests with all losses measured."""
    page.locator("section.bullets[data-stage=exact]").wait_for(timeout=120_000)


def moves(page: Any, rounds: int) -> list[dict[str, float]]:
    """Moves one slider per round and returns the seconds until each part of the answer."""
    # The answer to the prompt is not part of the claim, and it comes before the full losses.
    page.evaluate("window.dem.line.event({ type: 'prompt', text: '' })")
    names = page.evaluate("window.dem.line.state.info.vectors.map((one) => one.name)")
    dice = random.Random(0)
    return [
        page.evaluate(MOVE, [dice.choice(names), round(dice.uniform(-0.5, 1.5), 4)])
        for _ in range(rounds)
    ]


def dragging(browser: Any, address: str, count: int, seconds: float) -> dict[str, Any]:
    """Lets several pages drag at once; returns the waits of all, and how many values arrived."""
    pages = [browser.new_context().new_page() for _ in range(count)]
    for page in pages:
        page.goto(address)
        page.locator(".omega").first.wait_for(timeout=120_000)
        page.evaluate("window.dem.line.event({ type: 'prompt', text: '' })")
    # Started without waiting for the end, so that all drag at the same time.
    for number, page in enumerate(pages):
        page.evaluate(f"() => {{ window.swarm = ({SWARM})([{seconds}, {number + 1}]); }}")
    results = [page.evaluate("() => window.swarm") for page in pages]
    return {
        "waits": [wait for result in results for wait in result["waits"]],
        "arrived": sum(result["arrived"] for result in results),
    }


if __name__ == "__main__":
    main()
