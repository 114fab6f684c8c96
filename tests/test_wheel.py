"""A wheel works as the clone does: it carries the page's files and the demo; `dem` finds them.

The wheel is built from a copy of the sources, because setuptools writes build/ beside them and
would pack files that an older build left there. It is unpacked, not installed: the dependencies are
those of this environment.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("plumbing", "merging", "corpus", "evaluation", "training", "influence")
PACKAGES += ("workbench", "assets")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unpacked wheel, which was built without a network."""
    sources = tmp_path_factory.mktemp("sources")
    for name in PACKAGES:
        unwanted = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, sources / name, ignore=unwanted)
    for name in FILES:
        shutil.copy(ROOT / name, sources)
    built, unpacked = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("unpacked")
    words = ["wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(built)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words],
        cwd=sources,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(unpacked)
    return unpacked


def python(wheel: Path, folder: Path, code: str) -> str:
    """What some code prints that runs in `folder` with the wheel alone on the path of modules."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def dem(wheel: Path, folder: Path, *words: str) -> str:
    """What `dem` prints, run from the wheel."""
    code = f"import sys; from workbench.cli import main; sys.exit(main({list(words)!r}))"
    return python(wheel, folder, code)


def test_it_holds_the_shipped_files_and_nothing_else_beside_the_packages(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "assets"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    shipped = {name for name in listed if not name.startswith("assets/screenshots/")}
    packed = {
        path.relative_to(wheel / "workbench").as_posix()
        for path in (wheel / "workbench" / "assets").rglob("*")
        if path.is_file()
    }
    assert packed == shipped
    tops = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == set(PACKAGES) - {"assets"}
    assert (wheel / "evaluation" / "suites" / "demo" / "demo.yaml").is_file()


def test_its_own_modules_run(wheel: Path, tmp_path: Path) -> None:
    """The control: what answers is not the editable installation of this environment."""
    assert python(wheel, tmp_path, "import workbench; print(workbench.__file__)").startswith(
        str(wheel)
    )


def test_the_version_and_the_place_of_the_demo(wheel: Path, tmp_path: Path) -> None:
    from merging.version import __version__

    assert dem(wheel, tmp_path, "--version") == f"dem {__version__}\n"
    demo = wheel / "workbench" / "assets" / "demo"
    assert dem(wheel, tmp_path, "demo", "path") == f"{demo}\n"


def test_the_page_finds_its_files(wheel: Path, tmp_path: Path) -> None:
    code = (
        "from workbench.page import server\n"
        "live = [f'live/{name}.js' for name in server.SCRIPTS]\n"
        "files = ['page.css', 'page.js', 'stream.js', *live]\n"
        "print(*[len((server.ASSETS / file).read_text('utf-8')) for file in files])"
    )
    assert all(int(size) > 1000 for size in python(wheel, tmp_path, code).split())


def test_the_demo_is_measured_and_benchmarked(wheel: Path, tmp_path: Path) -> None:
    demo = wheel / "workbench" / "assets" / "demo"
    recipe, data = str(demo / "recipe.yml"), str(demo / "data")
    lines = dem(wheel, tmp_path, "loss", recipe, "--data", data, "--limit", "3").splitlines()
    names = [line.split()[0] for line in lines]
    assert sorted(names) == ["cot", "dataset", "dialog", "mathqa", "mean", "p3", "sni"]
    scores = dem(wheel, tmp_path, "bench", recipe, "--suite", "demo", "--limit", "1")
    assert "demo_sni" in scores
    assert list(tmp_path.iterdir()) == []
