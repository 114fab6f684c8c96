"""Where the shipped files are: the page's stylesheet and scripts, and both demos."""

from __future__ import annotations

from pathlib import Path


def assets() -> Path:
    """Returns the folder that holds page.css, page.js, stream.js, live/, demo/ and real/.

    In a clone this is assets/ at the top. A wheel carries it as workbench/assets/, because a
    folder `assets` beside every other installed package could belong to anybody.
    """
    return _assets_under(Path(__file__).resolve().parents[1])


def _assets_under(root: Path) -> Path:
    """Returns the assets folder of the clone, or of the installation, at `root`."""
    # The installed place is looked at first: in site-packages, root/assets may be a stranger's.
    installed = root / "workbench" / "assets"
    return installed if installed.is_dir() else root / "assets"
