"""Serves the page, hardened: who may reach it, what other sites may not do, what is off."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from plumbing.paths import assets
from workbench.errors import SessionError
from workbench.line.routes import routes
from workbench.page.page import build
from workbench.plots.theme import palette_css
from workbench.search.process import find
from workbench.session.session import Session

ASSETS = assets()
SCRIPTS = (
    *("state", "dom", "forecast", "optimum", "line", "strips", "finding", "controls"),
    *("measuring", "bars", "status"),
    *("parallel", "trials", "front", "search_form", "search_found", "searched", "search"),
    "start",
)
"""The scripts of the live line, in the order in which they need each other.

stream.js comes before them, and page.js after them.
"""
LOOPBACK = ("127.0.0.1", "localhost", "::1")

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class Guard:
    """Middleware that refuses writes requested by other sites, and adds security headers.

    A form on any web page can post to a port of this machine. Browsers then send the Origin of that
    page, which differs from our host.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        origin = headers.get(b"origin")
        foreign = origin is not None and (
            origin == "null" or urlsplit(origin).netloc != headers.get(b"host", "")
        )
        if foreign and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            start = {
                "type": "http.response.start",
                "status": 403,
                "headers": [(b"content-type", b"text/plain")],
            }
            await send(start)
            await send(
                {"type": "http.response.body", "body": b"This request came from another site.\n"}
            )
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {key.lower() for key, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((k, v) for k, v in HEADERS if k not in present),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def theme() -> gr.themes.Base:
    """Returns the theme: ink on paper, one accent. IBM Plex ships with gradio, so no download."""
    # gradio's copies of the 600 weights contain only part of the alphabet (4 and 20 kB); those of
    # 400 and 700 are complete.
    sans, mono = (
        gr.themes.LocalFont(name, weights=(400, 700)) for name in ("IBM Plex Sans", "IBM Plex Mono")
    )
    return gr.themes.Base(
        font=[sans, "ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=[mono, "ui-monospace", "monospace"],
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_sm,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
    )


def launch(
    session: Session,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: tuple[str, str] | None = None,
    *,
    block: bool = True,
) -> str:
    """Starts the server, hardened as docs/security.md describes.

    Args:
        session: the session.
        host: address to listen on.
        port: port to listen on.
        auth: user and password, or None for no login.
        block: whether to wait until the server ends.

    Returns:
        The address of the page, once the server has started or, with `block`, has ended.

    Raises:
        SessionError: if other machines can reach the host and there is no login.
    """
    _check_host(host, auth is not None)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("GRADIO_TEMP_DIR", str(_private(session.workdir.root / "tmp")))
    for risky in ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_VIBE_MODE", "GRADIO_MCP_SERVER"):
        os.environ.pop(risky, None)
    hosts = ["*"] if host not in LOOPBACK else ["127.0.0.1", "localhost", "[::1]", "::1"]
    page = build(session)
    # More than 64 waiting requests get an error, so that no client can fill the memory.
    page.queue(max_size=64, default_concurrency_limit=4)
    line, live = routes(session)
    session.at_close.append(line.close)
    find(session)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        auth=auth,
        share=False,
        ssr_mode=False,
        strict_cors=True,
        max_file_size="1mb",
        allowed_paths=[],
        enable_monitoring=False,
        run_history=False,
        show_error=False,
        mcp_server=False,
        pwa=False,
        state_session_capacity=200,
        footer_links=[],
        quiet=True,
        prevent_thread_lock=not block,
        app_kwargs={
            # From the start: a page that waits for a server asks them at once.
            "routes": live,
            "middleware": [
                Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
                Middleware(Guard),
            ],
        },
        theme=theme(),
        css=palette_css() + (ASSETS / "page.css").read_text(encoding="utf-8"),
        head="".join(f"<script>{script}</script>" for script in scripts()),
    )
    return str(address)


def scripts() -> list[str]:
    """Returns the scripts of the page, in the order in which they need each other."""
    live = [ASSETS / "live" / f"{name}.js" for name in SCRIPTS]
    files = [ASSETS / "stream.js", *live, ASSETS / "page.js"]
    return [file.read_text(encoding="utf-8") for file in files]


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    workdir: Path = Path("workdir"),
    models: Sequence[Path] = (),
    auth: str = "",
    demo: bool | Path = True,
    device: str = "cpu",
) -> None:
    """Opens a session and serves its page until the process ends; app.py and `dem ui` call this.

    Args:
        host: address to listen on; any other than this machine's own needs `auth`.
        port: port to listen on.
        workdir: where jobs, runs, recipes and exports are kept.
        models: folders whose models the page may open.
        auth: USER:PASSWORD, or empty.
        demo: whether to open the demo; or another folder with the same layout.
        device: device of the live model, as torch names it: cpu, cuda, cuda:1.

    Raises:
        SessionError: if an argument is invalid.
    """
    # Must be set before torch starts its threads. Two threads that spin at a barrier while anything
    # else runs cost ten times what they gain.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    user, _, password = auth.partition(":")
    if auth and not (user and password):
        raise SessionError("--auth takes USER:PASSWORD, both non-empty.")
    for folder in models:
        if not folder.is_dir():
            raise SessionError(f"--models {folder} is not a folder.")
    _check_host(host, bool(auth))
    shipped = ASSETS / "demo" if demo is True else demo or None
    session = Session(
        models,
        workdir,
        demo=shipped if shipped and (shipped / "base").is_dir() else None,
        device=device,
    )
    # Opening imports torch and transformers, which takes seconds. The page starts meanwhile.
    threading.Thread(target=session.open_demo, name="open", daemon=True).start()
    try:
        try:
            address = launch(session, host, port, (user, password) if auth else None, block=False)
        except OSError as error:  # gradio's words for a port in use speak of its own settings
            cause = error.strerror or "another program may use the port"
            raise SessionError(
                f"--port {port}: nothing can listen there on {host} ({cause}). Give another --port."
            ) from None
        print(f"DEM workbench: {address}", flush=True)  # noqa: T201
        code = _wait_for_signal()
    finally:
        session.close()
    _end_process(code)


def _wait_for_signal() -> int:
    """Returns the exit code of the process once a signal asks it to end."""
    try:
        while True:
            # Python runs the handler of a signal in this thread only, and a signal that another
            # thread has received does not wake it.
            time.sleep(1)
    except KeyboardInterrupt:
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0


def _end_process(code: int) -> None:
    """Ends the process at once: other threads may still compute for a page.

    The interpreter would end such a thread at its next step of Python; inside torch's code that
    aborts the process.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _check_host(host: str, login: bool) -> None:
    """Raises SessionError if other machines could use the page without a login."""
    if host not in LOOPBACK and not login:
        raise SessionError(
            f"{host} can be reached from other machines, and anyone who reaches the page can use "
            "it. Give --auth USER:PASSWORD, or leave out --host to serve this machine only."
        )


def _private(folder: Path) -> Path:
    """Creates a folder that only this user can read, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder.resolve()
