"""The page's scripts without a page: node's own runner carries out the files *.test.mjs here."""

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ASSETS = HERE.parents[3] / "assets"


def node():
    """The node that playwright's wheel carries, so that none has to be installed."""
    import playwright

    path = Path(playwright.__file__).parent / "driver" / "node"
    assert path.is_file(), "playwright is installed without its driver: make .venv/made-test"
    return path


@pytest.mark.parametrize("file", sorted(HERE.glob("*.test.mjs")), ids=lambda file: file.name)
def test_the_scripts_keep_their_laws(file):
    done = subprocess.run(
        [node(), "--test", "--test-reporter=tap", file],
        env=os.environ | {"DEM_ASSETS": str(ASSETS)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "# fail 0" in done.stdout
