"""Start the page: python app.py, then open the address it prints."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Before torch is imported: two threads that spin at a barrier beside anything else cost ten times their gain.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def main(arguments: list[str] | None = None) -> int:
    """Parse the flags and serve; 2 for flags that cannot be followed."""
    parser = argparse.ArgumentParser(
        description="DEM workbench: compose distribution-edited models live."
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve on (default: this machine only)"
    )
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path("workdir"),
        help="where jobs, runs and exports are kept",
    )
    parser.add_argument(
        "--models",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder the page may read; repeatable",
    )
    parser.add_argument(
        "--no-demo", dest="demo", action="store_false", help="start without the embedded demo"
    )
    parser.add_argument(
        "--demo", type=Path, metavar="DIR", help="open another folder laid out like the demo"
    )
    parser.add_argument(
        "--auth", default="", metavar="USER:PASSWORD", help="needed for any host but this machine"
    )
    parser.add_argument(
        "--device", default="cpu", help="where the live model stands: cpu, cuda, cuda:1"
    )
    parser.set_defaults(demo=True)
    given = parser.parse_args(arguments)

    from workbench.errors import SessionError
    from workbench.page.server import serve

    try:
        serve(**vars(given))
    except SessionError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
