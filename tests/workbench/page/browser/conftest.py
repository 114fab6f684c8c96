"""A real page in a real browser: `python app.py` in a process of its own, on a free port, with a fresh workdir."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[4]
DEMO = Path(os.environ.get("DEM_TEST_DEMO", ROOT / "assets" / "demo"))
EXAMPLES = 41
"""Validation examples of a dataset that a page measures here, of 200; quick losses take fewer."""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<img src=x onerror=window.__xss=1>"
"""A folder name that is markup, for a page that would believe it."""


@pytest.fixture(scope="session")
def browser():
    """Chromium; a missing one skips here and fails in CI."""
    path = (
        os.environ.get("PLAYWRIGHT_CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
    )
    missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install -e '.[test]'")
    if not path:
        missing("no chromium found: install it, or name it in PLAYWRIGHT_CHROMIUM")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


class Server:
    """The page's process."""

    def __init__(self, workdir: Path, roots: list[Path], demo: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.workdir, self.roots, self.demo = workdir, roots, demo
        self.address = f"http://127.0.0.1:{self.port}/"
        self.log = workdir.parent / "server.log"
        self.start()

    def start(self):
        """Start, and wait until it answers."""
        self.started = time.monotonic()
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
        }
        roots = [word for root in self.roots for word in ("--models", str(root))]
        words = [
            sys.executable,
            str(ROOT / "app.py"),
            "--port",
            str(self.port),
            "--workdir",
            str(self.workdir),
        ]
        words += ["--demo", str(self.demo), *roots]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                words, env=environment, cwd=ROOT, stdout=log, stderr=log
            )
        while time.monotonic() - self.started < 120:
            try:
                urllib.request.urlopen(self.address, timeout=1)
                self.answered = time.monotonic() - self.started
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        self.process.kill()  # one that is only slow would go on beside all other tests
        self.process.wait()
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self):
        """End the process as a service manager does; it must obey at once, whatever it computes."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 128 + signal.SIGTERM


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The shipped demo with fewer validation examples: at rest, a page measures them all."""
    if not (DEMO / "base").is_dir():
        pytest.fail("assets/demo is not built; run `dem demo build`")
    made = shutil.copytree(DEMO, tmp_path_factory.mktemp("shipped") / "demo")
    for file in made.glob("data/*/validation.jsonl"):
        rows = file.read_text("utf-8").splitlines(keepends=True)
        file.write_text("".join(rows[:EXAMPLES]), "utf-8")
    return made


@pytest.fixture(scope="session")
def server(tmp_path_factory, demo):
    """A server on the demo, and a root with a broken and a hostile folder."""
    folder = tmp_path_factory.mktemp("browser")
    extra = folder / "models"
    (extra / "broken").mkdir(parents=True)
    (extra / "broken" / "model.safetensors").write_bytes(b"not weights at all")
    shutil.copytree(
        next(path for path in sorted(demo.iterdir()) if (path / "model.safetensors").is_file()),
        extra / HOSTILE,
    )
    made = Server(folder / "workdir", [extra], demo)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def adapted(tmp_path_factory, world):
    """A server of its own, whose third vector is an adapter."""
    made = Server(tmp_path_factory.mktemp("adapted") / "workdir", [], world)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def trainer(tmp_path_factory, demo):
    """A server of its own on the demo, for trainings: it gets a vector more."""
    made = Server(tmp_path_factory.mktemp("trainer") / "workdir", [], demo)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def small(tmp_path_factory, world):
    """A server on the little world, and a root with a model that counts as trained on mixed data."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("compared")
    mixed = shutil.copytree(world / "ada", folder / "models" / "mixed")
    weights = load_file(mixed / "model.safetensors")
    save_file(
        {name: 1.01 * value for name, value in weights.items()},
        mixed / "model.safetensors",
        {"format": "pt"},
    )
    (mixed / "training.json").write_text(
        '{"spent": {"wall_seconds": 30.0, "device_seconds": 59.0}}'
    )
    made = Server(folder / "workdir", [folder / "models"], world)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def talking(tmp_path_factory, world):
    """A server on the little world, whose base has a chat template."""
    folder = tmp_path_factory.mktemp("talking")
    made = shutil.copytree(world, folder / "world")
    (made / "base" / "chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}<assistant>"
    )
    server = Server(folder / "workdir", [], made)
    yield server
    server.stop()


@pytest.fixture
def open_page(browser, server):
    """Open a page of some size and theme; whatever goes wrong in it fails the test that opened it."""
    wrong: list[str] = []
    pages, leaving, expected = [], set(), []

    def watch(response):
        if response.status >= 500:
            wrong.append(f"{response.status} {response.url}")

    def local(request):
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
            wrong.append(f"a request left the machine: {request.url}")

    def heard(page, text):
        # What gradio says of its stream when a page goes away, which closes it in the midst of its reading.
        broken_off = any(
            words in text
            for words in (
                "signal is aborted without reason",
                "Connection errored out",
                "Unexpected error 404",
                "ERR_INCOMPLETE_CHUNKED_ENCODING",
                "network error",
            )
        )
        # A test that kills the server, or posts nonsense on purpose, expects what the browser says of it.
        if any(words in text for words in expected):
            return
        if not (broken_off and page in leaving):
            wrong.append(f"console: {text}")

    def reloading(page, reload):
        def reloaded():
            leaving.add(page)
            reload()
            page.wait_for_timeout(1000)  # until the last of it was said
            leaving.remove(page)

        return reloaded

    def make(width=1440, height=900, theme="light", ready=True, at=server, script=""):
        context = browser.new_context(viewport={"width": width, "height": height})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        pages.append(page)
        page.set_default_timeout(60_000)
        page.on("console", lambda note: heard(page, note.text) if note.type == "error" else None)
        page.reload = reloading(page, page.reload)
        page.on("pageerror", lambda error: wrong.append(f"page error: {error}"))
        page.on("response", watch)
        page.on("request", local)
        page.add_init_script(script)
        page.goto(f"{at.address}?__theme={theme}")
        if ready:
            Steps.exact(page)
        return page

    make.expected = expected
    yield make
    leaving.update(pages)
    for page in pages:
        page.context.close()
    assert not wrong, "\n".join(wrong)


class Steps:
    """What readers do and wait for."""

    hostile = HOSTILE

    @staticmethod
    def exact(page, timeout=120_000):
        """Wait until the page stands still: the model is settled and every loss is of the whole validation set."""
        try:
            page.locator("section.bullets[data-stage=exact]").wait_for(
                state="attached", timeout=timeout
            )
            page.locator("#status [data-part=model][data-value=settled]").wait_for(timeout=timeout)
        except Exception as error:
            shown = "#status .light, .formula, section.bullets, .omega .figures, .message"
            seen = page.eval_on_selector_all(
                shown, "all => all.map(one => one.cloneNode().outerHTML + (one.value ?? ''))"
            )
            error.add_note("\n".join(["the page does not come to rest; it shows", *seen]))
            raise

    @staticmethod
    def on_page(page):
        """The ω that the boxes show, as numbers."""
        texts = page.eval_on_selector_all(".omega .figures", "all => all.map(one => one.value)")
        return [float(text.replace("−", "-").replace(",", ".")) for text in texts]

    @staticmethod
    def on_server(page):
        """The ω of the recipe that the server keeps under the digest that the page shows."""
        return page.evaluate(
            """async () => {
                const digest = document.querySelector('#header .digest').textContent;
                const answer = await fetch(`live/open?recipe=${digest}`);
                const { state, vectors, note } = await answer.json();
                return note ? note : vectors.map(({ name }) => state.omegas[name]);
            }"""
        )

    @staticmethod
    def settled(page, wanted, timeout=60_000):
        """Wait until the page rests at these ω (None: any), with the losses of exactly that composition."""
        try:
            page.wait_for_function(
                """wanted => {
                    const shown = [...document.querySelectorAll('.omega .figures')].map(one => +one.value.replace('−', '-').replace(',', '.'));
                    const formula = document.querySelector('.formula')?.dataset, chart = document.querySelector('section.bullets');
                    const top = document.querySelector('#header .digest')?.textContent;
                    const rests = document.querySelector('#status [data-part=model]')?.dataset.value === 'settled';
                    return rests && wanted.every((value, i) => value == null || Math.abs(value - shown[i]) < 1e-9)
                        && chart && top && formula?.digest === top && chart.dataset.digest === top && chart.dataset.stage === 'exact'
                        && location.hash === `#recipe=${top}`;
                }""",
                arg=list(wanted),
                timeout=timeout,
            )
        except Exception as error:
            error.add_note(page.evaluate("JSON.stringify({ ...dem.line.state, info: 0 })")[:2000])
            raise

    @staticmethod
    def method(page, name):
        """Choose a merge method from the list."""
        page.locator("#method-choice").select_option(name)

    @staticmethod
    def parameter(page, name, value):
        """Write a number into a parameter's field, whose fold is opened where it is closed."""
        fold = page.locator("details.parameters")
        if fold.get_attribute("open") is None:
            fold.locator("summary").click()
        page.locator(f"#parameter-{name}").fill(value)
        page.locator(f"#parameter-{name}").press("Enter")

    @staticmethod
    def tab(page, name):
        """Show a tab."""
        page.locator("#tabs button[role=tab]", has_text=name).first.click()


@pytest.fixture(scope="session")
def steps():
    """What readers do and wait for."""
    return Steps
