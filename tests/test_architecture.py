"""The arrows between packages, looked at in fresh interpreters, and the doors to heavy dependencies, in the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"plumbing", "merging", "corpus", "evaluation", "training", "workbench"}
MAY_IMPORT = {
    "plumbing": set(),
    "merging": {"plumbing"},
    "corpus": {"plumbing"},
    "evaluation": {"plumbing", "merging", "corpus"},
    "training": {"plumbing", "corpus"},
    "workbench": OURS,
}
"""Package -> the packages of ours that it may import; the design's arrows."""

HEAVY = {
    "gradio",
    "lm_eval",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "plotly",
    "sklearn",
    "optuna",
}
HEAVY |= {"sentence_transformers"}
NEVER = {
    "plumbing": HEAVY | {"torch"},
    "merging": HEAVY | {"huggingface_hub"},
    "corpus": HEAVY - {"datasets"} | {"torch"},
    "evaluation": {"gradio", "plotly", "peft", "accelerate"},
    "training": {"gradio", "plotly", "lm_eval"},
    "workbench": set(),
}
"""Package -> what importing any of its modules never loads by itself."""

DOORS = {
    "lm_eval": {"evaluation/harness.py", "evaluation/harness_tasks.py"},
    "peft": {"training/run/lora.py"},
    "sentence_transformers": {"corpus/text_encoders.py"},
    "gradio": {"workbench/page/page.py", "workbench/page/server.py", "workbench/page/tabs"},
    "huggingface_hub": {"merging/inputs/hub.py"},
}
"""Dependency -> the only files, or folders, that import it."""


def modules(package):
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / package).rglob("*.py")
    )


def loaded_by(names):
    """Top-level packages in sys.modules after importing modules in a fresh interpreter."""
    code = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*{n.split('.')[0] for n in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def imported_in(source):
    """Top-level packages that a source text imports, anywhere in it; in TYPE_CHECKING blocks too, for the arrows hold there."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module"
        ):
            found |= {arg.value.split(".")[0] for arg in node.args if isinstance(arg, ast.Constant)}
    return found


def sources():
    return {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
        for top in (*sorted(OURS), "app.py")
        for path in ([ROOT / top] if top.endswith(".py") else sorted((ROOT / top).rglob("*.py")))
    }


def broken_arrows(files):
    """'file imports package' for each import of ours that the arrows do not allow."""
    return [
        f"{name} imports {other}"
        for name, text in files.items()
        if (package := name.split("/")[0]) in MAY_IMPORT
        for other in sorted(imported_in(text) & OURS - MAY_IMPORT[package] - {package})
    ]


def side_doors(files):
    """'file imports dependency' for each import of a guarded dependency outside its doors."""
    return [
        f"{name} imports {dependency}"
        for name, text in files.items()
        for dependency in sorted(imported_in(text) & set(DOORS))
        if not any(name == door or name.startswith(f"{door}/") for door in DOORS[dependency])
    ]


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_fresh_interpreter_loads_only_what_the_package_may(package):
    loaded = loaded_by(modules(package))
    assert loaded & OURS <= MAY_IMPORT[package] | {package}
    assert loaded & NEVER[package] == set()


def test_no_source_breaks_an_arrow():
    assert broken_arrows(sources()) == []


def test_dependencies_come_in_by_their_doors():
    assert side_doors(sources()) == []


def test_every_door_is_used():
    """A door that nothing goes through any more would guard nothing."""
    files = sources()
    for dependency, doors in DOORS.items():
        users = [name for name, text in files.items() if dependency in imported_in(text)]
        unused = [
            door
            for door in doors
            if not any(name == door or name.startswith(f"{door}/") for name in users)
        ]
        assert unused == [], dependency


def test_the_check_itself_sees_what_it_should():
    planted = {
        "merging/x.py": "def f():\n    from evaluation.loss import losses",
        "corpus/y.py": "import importlib\nimportlib.import_module('merging.engine.loop')",
        "evaluation/z.py": "import lm_eval.api",
        "workbench/w.py": "from gradio import Blocks",
        "workbench/page/tabs/ok.py": "import gradio, evaluation",
    }
    assert broken_arrows(planted) == [
        "merging/x.py imports evaluation",
        "corpus/y.py imports merging",
    ]
    assert side_doors(planted) == [
        "evaluation/z.py imports lm_eval",
        "workbench/w.py imports gradio",
    ]


def test_the_fresh_interpreter_sees_what_is_imported():
    assert {"evaluation", "merging"} <= loaded_by(["evaluation.model"])


def test_command_line_and_session_start_without_the_page():
    assert not loaded_by(["workbench.session.session", "workbench.cli"]) & {
        "gradio",
        "lm_eval",
        "peft",
    }
