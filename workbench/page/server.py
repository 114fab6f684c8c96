"""Serves the page, hardened: who may reach it, what another site may not do, and what is off."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from workbench.errors import SessionError
from workbench.page.page import build
from workbench.plots import charts
from workbench.session.session import Session

ASSETS = Path(__file__).resolve().parents[2] / "assets"
SCRIPTS = ("stream.js", "page.js")
LOOPBACK = ("127.0.0.1", "localhost", "::1")

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class Guard:
    """Refuses writes that another site's page asks for, and adds the headers that keep this page in its own frame.

    A form on any web page can post to a port of this machine; browsers then send that page's Origin.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        origin = headers.get(b"origin")
        elsewhere = origin is not None and (
            origin == "null" or urlsplit(origin).netloc != headers.get(b"host", "")
        )
        if elsewhere and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
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

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {key.lower() for key, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((k, v) for k, v in HEADERS if k not in present),
                ]
            await send(message)

        await self.app(scope, receive, guarded)


def theme() -> gr.themes.Base:
    """Ink on paper, one accent; IBM Plex comes with gradio, so nothing is fetched."""
    # gradio's copies of the 600 weights hold only part of the alphabet (4 and 20 kB); 400 and 700 are whole
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
    """Start the server and return its address (when `block` is off), hardened as docs and tests say.

    Raises:
        SessionError: for a host that others can reach without a login.
    """
    _reachable(host, auth is not None)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("GRADIO_TEMP_DIR", str(_private(session.workdir.root / "tmp")))
    for risky in ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_VIBE_MODE", "GRADIO_MCP_SERVER"):
        os.environ.pop(risky, None)
    hosts = ["*"] if host not in LOOPBACK else ["127.0.0.1", "localhost", "[::1]", "::1"]
    page = build(session)
    page.queue(max_size=64, default_concurrency_limit=4)
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
            "middleware": [
                Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
                Middleware(Guard),
            ]
        },
        theme=theme(),
        css=charts.palette_css() + (ASSETS / "page.css").read_text(encoding="utf-8"),
        head="".join(
            f"<script>{(ASSETS / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS
        ),
    )
    return str(address)


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
    """Open a session and serve its page until the process is ended: what app.py and `dem ui` do.

    Args:
        host: address to listen on; any but this machine's own needs `auth`.
        port: port to listen on.
        workdir: where jobs, runs, recipes and exports are kept.
        models: folders whose models the page may open.
        auth: USER:PASSWORD, or empty.
        demo: whether to open with the demo; or another folder laid out like it.
        device: where the live model stands, as torch names it.

    Raises:
        SessionError: for a flag that cannot be followed.
    """
    # Before torch starts its threads: two that spin at a barrier beside anything else cost ten times their gain.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    user, _, password = auth.partition(":")
    if auth and not (user and password):
        raise SessionError("--auth takes USER:PASSWORD, both non-empty.")
    for folder in models:
        if not folder.is_dir():
            raise SessionError(f"--models {folder} is not a folder.")
    _reachable(host, bool(auth))
    shipped = ASSETS / "demo" if demo is True else demo or None
    session = Session(
        models,
        workdir,
        demo=shipped if shipped and (shipped / "base").is_dir() else None,
        device=device,
    )
    # Opening imports torch and transformers, some seconds; the page starts beside it and says so.
    threading.Thread(target=session.open_demo, name="open", daemon=True).start()
    try:
        address = launch(session, host, port, (user, password) if auth else None, block=False)
        print(f"DEM workbench: {address}", flush=True)  # noqa: T201
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        session.close()


def _reachable(host: str, login: bool) -> None:
    """Refuse a page that strangers could use."""
    if host not in LOOPBACK and not login:
        raise SessionError(
            f"{host} can be reached from other machines, and whoever reaches the page can use it. "
            "Give --auth USER:PASSWORD, or leave out --host to serve this machine only."
        )


def _private(folder: Path) -> Path:
    """A folder that only this user can read."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder.resolve()
