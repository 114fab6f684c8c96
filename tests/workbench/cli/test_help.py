"""`dem --help` and the help of each verb: panels, both flags, no Python types, examples that run."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from workbench.cli import main
from workbench.cli.app import app
from workbench.cli.help import PANELS

ROOT = Path(__file__).parents[3]
PANEL_OF = {
    "Merge": ["merge", "extract", "vector", "verify", "convert"],
    "Inspect": ["inspect", "weights", "rounding", "methods"],
    "Measure": ["compare", "loss", "bench", "search", "statistics"],
    "Train": ["train"],
    "Data": ["balance", "influence", "misfiled"],
    "Page": ["ui", "demo", "real"],
}


def verbs() -> dict[str, Any]:
    """Each verb by its words: `merge`, `demo path`."""
    group: Any = get_command(app)
    found = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {word}": inner[word] for word in inner} if inner else {name: command}
    return found


def helped(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns, which is also the width for a pipe."""
    monkeypatch.setenv("COLUMNS", "80")


def test_the_verbs_are_listed_by_panel(capsys: pytest.CaptureFixture[str]) -> None:
    lines = helped(capsys, ["--help"]).splitlines()
    panels: dict[str, list[str]] = {}
    for line in lines:
        if heading := re.match(r"╭─ (\w+) ─", line):
            current = panels.setdefault(heading[1], [])
        elif verb := re.match(r"│ ([a-z]+)  ", line):
            current.append(verb[1])
    assert list(panels) == ["Options", *PANELS]
    assert {panel: sorted(names) for panel, names in panels.items() if names} == {
        panel: sorted(names) for panel, names in PANEL_OF.items()
    }


@pytest.mark.parametrize("words", ["", "demo", "real", *verbs()])
def test_each_help_has_two_flags_80_columns_and_no_types(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = helped(capsys, [*words.split(), "-h"])
    assert text == helped(capsys, [*words.split(), "--help"])
    assert max(map(len, text.splitlines())) <= 80
    assert f"Usage: dem {words}".strip() in text
    assert not re.search(r"<\w+>|\bPath\b|\bTEXT\b|\bINTEGER\b|\bFLOAT\b|list\[", text)
    assert "[OPTIONS]" in text and "{" not in text.partition("Examples:")[0]


def test_the_check_of_types_can_fail(capsys: pytest.CaptureFixture[str]) -> None:
    """The twin: Typer itself shows them."""
    import typer

    plain = typer.Typer()
    plain.command()(lambda recipe: None)
    plain(["--help"], standalone_mode=False)
    assert re.search(r"<\w+>", capsys.readouterr().out)


def test_without_words_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert helped(capsys, []) == helped(capsys, ["--help"])
    for group in ("demo", "real"):
        assert helped(capsys, [group]) == helped(capsys, [group, "--help"])


def examples(command: Any) -> list[str]:
    """The command lines of a verb's block of examples, as they are shown."""
    head, _, block = command.epilog.partition("\n\n")
    assert head == "Examples:"
    return block.splitlines()


@pytest.mark.parametrize("words", verbs())
def test_each_verb_has_two_examples_of_itself(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = examples(verbs()[words])
    text = helped(capsys, [*words.split(), "--help"])
    assert all(f" {line}" in text.splitlines() or f" {line} " in text for line in lines)
    assert max(map(len, lines)) <= 78  # so that none is wrapped, and each can be copied
    assert sum(f"dem {words}" in line for line in lines) >= 2 - (words == "demo path")


QUICK = ["inspect", "weights", "rounding", "methods", "demo path"]
SLOW = ["merge", "extract", "vector", "verify", "loss", "bench", "compare", "statistics", "train"]
SLOW += ["search", "influence vectors", "influence mixture", "influence omega", "influence try"]


def run_examples(names: list[str], folder: Path) -> None:
    """Run all examples of some verbs as a shell would, in a folder that has `assets/`."""
    (folder / "assets").symlink_to(ROOT / "assets")
    script = "\n".join(line for name in names for line in examples(verbs()[name]))
    python = f"{sys.executable} -W ignore -m workbench.cli"
    done = subprocess.run(
        ["sh", "-e", "-c", f'dem() {{ PYTHONPATH={ROOT} {python} "$@"; }}\n{script}'],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("names", [QUICK, SLOW], ids=["quick", "slow"])
def test_the_examples_work(names: list[str], tmp_path: Path) -> None:
    """All but those of `ui`, which serves until it is ended, of `demo build`, which takes long, and
    of `convert` and `real`, which need files of their own (tests/workbench/gguf, tests/workbench/real)."""
    run_examples(names, tmp_path)


def test_the_examples_name_only_what_exists() -> None:
    """The quick twin of the test above: paths of assets/, and flags of the verb."""
    for words, command in verbs().items():
        flags = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
        for line in examples(command):
            assert all((ROOT / path).exists() for path in re.findall(r"assets/[\w/.]+", line))
            if line.startswith(f"dem {words}"):
                assert set(re.findall(r" (--[a-z-]+)", line)) <= flags, line
