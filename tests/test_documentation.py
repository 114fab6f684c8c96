"""The documentation names files, functions and commands that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def names_in(file):
    """Functions, classes and methods ("Class.method") that a file defines."""
    defined = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        if isinstance(node, ast.ClassDef):
            defined |= {f"{node.name}.{sub.name}" for sub in node.body if hasattr(sub, "name")}
    return defined


def missing_paths(text, root=ROOT):
    """Paths in backticks that begin with a folder of the repository and do not exist."""
    tops = {path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "."}
    paths = re.findall(r"`([\w.-]+/[\w./-]*)`", text)
    mine = [path for path in paths if path.split("/")[0] in tops and "NAME" not in path]
    return [path for path in mine if not (root / path).exists()]


def missing_functions(text, root=ROOT):
    """'path name' for each name that follows a path in backticks and that the file does not define."""
    pairs = re.findall(r"`([\w/]+\.py)` `([\w.]+)`", text)
    return [f"{path} {name}" for path, name in pairs if name not in names_in(root / path)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page):
    text = page.read_text("utf-8")
    assert missing_paths(text) == []
    assert missing_functions(text) == []


def test_the_journeys_are_read():
    """The architecture page names a good number of functions, so that the check is not empty."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert len(re.findall(r"`([\w/]+\.py)` `([\w.]+)`", text)) >= 18


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_check_itself_sees_what_it_should():
    text = (
        "`merging/nowhere.py` and `merging/engine/loop.py` `merge`, `merging/engine/loop.py` `gone`"
    )
    assert missing_paths(text) == ["merging/nowhere.py"]
    assert missing_functions(text.split(" and ")[1]) == ["merging/engine/loop.py gone"]
