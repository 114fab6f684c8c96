"""`dem` as a program: version, exit codes, errors for the user, --quiet, completion, and app.py."""

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from merging.version import __version__
from workbench.cli import main
from workbench.errors import SessionError

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "assets" / "demo"


def errors(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed on stderr, after the prefix of an error; stdout is empty."""
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and "Traceback" not in err
    return err.removeprefix("error: ")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"dem {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["merg"], "No such command 'merg'. Did you mean 'merge'? Run dem --help to see"),
        (["demo", "pat"], "No such command 'pat'. Did you mean 'path'? Run dem demo --help"),
        (["merge"], "Missing argument 'RECIPE'. Run dem merge --help to see what it takes."),
        (["merge", "a", "b", "c"], "Got unexpected extra argument"),
        (["merge", "a", "b", "--dtpye", "float16"], "No such option: --dtpye"),
        (["--quite"], "No such option: --quite"),
        (["merge", "a", "b", "--rank", "0"], "Invalid value for '--rank'"),
        (["merge", "a", "b", "--rank", "two"], "Invalid value for '--rank'"),
        (["merge", "a", "b", "--dtype"], "--dtype"),
        (["loss", "a"], "Missing option '--data'"),
        (["ui", "--port", "99999"], "Invalid value for '--port'"),
    ],
)
def test_wrong_usage_is_one_message(
    words: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = errors(capsys)
    assert message in said and said.count("\n") == 1 and "╭" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["loss", "vv", "--data", "data"],
            "vv does not exist. Give a recipe (YAML file), a model folder, or a hub id (org/name).",
        ),
        (["verify", "nowhere"], "nowhere does not exist. Give a folder that dem merge wrote."),
        (
            ["train", "recipe.yml", "out"],
            "recipe.yml looks like a merge recipe (merge_method). dem train needs a plan; to "
            "merge, run: dem merge recipe.yml OUT",
        ),
        (
            ["compare", "base", "cot", "--limit", "5"],
            "--limit only applies to a benchmark. Add --suite NAME or --tasks A,B, or leave "
            "--limit out.",
        ),
        (["weights", "empty.yml"], "empty.yml is empty"),
        (["weights", "bad.yml"], "bad.yml: not valid YAML: while parsing"),
        (["ui", "--demo", "nowhere"], "--demo nowhere has no folder base/."),
        (["ui", "--demo", "demo", "--no-demo"], "--demo and --no-demo exclude each other."),
        (["ui", "--auth", "me"], "--auth takes USER:PASSWORD"),
        (["ui", "--models", "nowhere"], "--models nowhere is not a folder."),
    ],
)
def test_errors_name_what_was_given_and_the_next_step(
    words: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    (tmp_path / "recipe.yml").write_text("merge_method: ties\nmodels: [{model: a}]\n")
    (tmp_path / "empty.yml").write_text("")
    (tmp_path / "bad.yml").write_text("merge_method: ties\nmodels: [a, {b\n")
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "validation.jsonl").write_text(
        '{"prompt": "a", "completion": "b"}\n'
    )
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = errors(capsys)
    assert message in said and "unicode string" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_in_yaml_is_named_by_its_file(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bad.yml").write_text("merge_method: ties\nmodels: [a, {b\n")
    assert main(["weights", str(tmp_path / "bad.yml")]) == 2
    assert re.search(r"bad\.yml: .*\n +at line 2, column 13", errors(capsys))


def test_an_export_without_room_names_the_flag(capsys: Any) -> None:
    """/proc has no free bytes at all; `out_dtype` is the key of a recipe."""
    if not Path("/proc/self").exists():
        pytest.skip("there is no /proc")
    assert main(["merge", str(DEMO / "recipe.yml"), "/proc/out"]) == 2
    said = errors(capsys)
    assert "/proc" in said and "--dtype bfloat16" in said and "out_dtype" not in said


@pytest.mark.parametrize(
    ("given", "meant"),
    [("fp16", "float16"), ("half", "float16"), ("bf16", "bfloat16"), ("FP32", "float32")],
)
@pytest.mark.parametrize(
    "words",
    [
        ["merge", "r.yml", "out"],
        ["rounding", "r.yml"],
        ["extract", "b", "c", "out", "--rank", "2"],
        ["vector", "b", "c", "out"],
    ],
    ids=lambda words: words[0],
)
def test_every_verb_names_dtypes_alike(
    words: list[str], given: str, meant: str, capsys: Any
) -> None:
    assert main([*words, "--dtype", given]) == 2
    assert errors(capsys) == (
        f"--dtype is {given!r}, expected one of float32, bfloat16, float16; "
        f"did you mean {meant!r}?\n"
    )


def test_an_error_of_the_system_names_its_file(monkeypatch: Any, capsys: Any) -> None:
    from workbench.reports import tables

    def refused() -> str:
        raise PermissionError(13, "Permission denied", "/locked/file")

    monkeypatch.setattr(tables, "methods", refused)
    assert main(["methods"]) == 2
    assert errors(capsys) == "/locked/file: Permission denied.\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: Any) -> None:
    from workbench.reports import tables

    monkeypatch.setattr(tables, "methods", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["methods"])


def test_an_interrupted_verb_ends_with_130(monkeypatch: Any) -> None:
    from workbench.reports import tables

    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "methods", interrupted)
    assert main(["methods"]) == 130


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of signals as they were before."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_verb_as_an_interruption_does(monkeypatch: Any, number: int) -> None:
    from workbench.reports import tables

    swept = []

    def interrupted() -> str:
        try:
            signal.raise_signal(number)
            raise AssertionError("the signal was not heard")
        finally:
            swept.append(number)

    monkeypatch.setattr(tables, "methods", interrupted)
    assert main(["methods"]) == 128 + number
    assert swept == [number]


@pytest.mark.usefixtures("handlers")
def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert main(["methods"]) == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_an_output_that_is_gone_ends_without_a_message(
    monkeypatch: Any, capsys: Any, number: int
) -> None:
    from workbench.reports import tables

    def gone() -> str:
        raise OSError(number, "gone")

    monkeypatch.setattr(tables, "methods", gone)
    # The package has the application by the same name as its module.
    monkeypatch.setattr(sys.modules["workbench.cli.app"], "_drop_stdout", lambda: None)
    assert main(["methods"]) == 1
    assert capsys.readouterr().err == ""


def python(code: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False, **more
    )


def test_a_pipe_without_a_reader_ends_without_a_message() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -W ignore -m workbench.cli methods | head -n 1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.stdout.startswith("arcee_fusion") and done.stderr == ""


@pytest.mark.parametrize("words", [["-q", "weights"], ["weights", "-q"], ["weights", "--quiet"]])
def test_quiet_is_taken_before_and_behind_the_verb(
    words: list[str], monkeypatch: Any, capsys: Any
) -> None:
    """The text goes to stderr when JSON goes to stdout, and is left out if nobody wants it."""
    monkeypatch.chdir(ROOT)
    file = [str(DEMO / "recipe.yml"), "--json", "-"]
    loud = [word for word in words if not word.startswith("-")]
    assert main([*loud, *file]) == 0
    out, err = capsys.readouterr()
    assert "tensor" in err
    assert main([*words, *file]) == 0
    assert capsys.readouterr() == (out, "")
    assert main([*loud, *file]) == 0  # it does not outlast the command
    assert capsys.readouterr() == (out, err)


def test_quiet_keeps_errors(capsys: Any) -> None:
    assert main(["-q", "verify", "nowhere"]) == 2
    assert "nowhere does not exist" in errors(capsys)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_verbs(shell: str) -> None:
    environment = os.environ | {
        "_DEM_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "dem me",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": "dem me",
        "COMP_CWORD": "1",
    }
    done = python("from workbench.cli import run; run()", env=environment)
    assert "merge" in done.stdout and "methods" in done.stdout, done.stderr
    assert "rounding" not in done.stdout


def test_completion_can_be_shown_and_installed(capsys: Any) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "--install-completion" in text and "--show-completion" in text


@pytest.mark.slow
def test_app_py_takes_the_flags_of_dem_ui() -> None:
    shown = python("from workbench.cli import main; main(['ui', '-h'])").stdout
    done = subprocess.run(
        [sys.executable, "app.py", "-h"], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0 and done.stdout == shown != ""
    wrong = subprocess.run(
        [sys.executable, "app.py", "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: 0.0.0.0 can be reached from")


def test_the_page_gets_each_flag(monkeypatch: Any, tmp_path: Path) -> None:
    from workbench.page import server

    got: list[dict[str, Any]] = []
    monkeypatch.setattr(server, "serve", lambda **flags: got.append(flags))
    assert main(["ui"]) == 0
    assert main(["ui", "--no-demo", "--port", "7861", "--models", "a", "--models", "b"]) == 0
    assert main(["ui", "--demo", str(DEMO), "--host", "h", "--auth", "u:p", "--workdir", "w"]) == 0
    plain = {
        "host": "127.0.0.1",
        "port": 7860,
        "workdir": Path("workdir"),
        "models": [],
        "auth": "",
        "demo": True,
        "device": "cpu",
    }
    assert got == [
        plain,
        plain | {"demo": False, "port": 7861, "models": [Path("a"), Path("b")]},
        plain | {"demo": DEMO, "host": "h", "auth": "u:p", "workdir": Path("w")},
    ]


def test_a_port_in_use_is_named(monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    from workbench.page import server

    def in_use(*_: Any, **__: Any) -> str:
        raise OSError("Cannot find empty port in range: 7860-7860.")

    monkeypatch.setattr(server, "launch", in_use)
    assert main(["ui", "--no-demo", "--workdir", str(tmp_path / "w")]) == 2
    assert "--port 7860: nothing can listen there on 127.0.0.1" in errors(capsys)


def test_an_unknown_device_is_refused_before_the_page_opens(capsys: Any) -> None:
    assert main(["ui", "--device", "gpu"]) == 2
    assert "expected cpu, cuda or cuda:N" in errors(capsys)


def test_the_demo_is_found_from_any_folder(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Its recipe names its models from the folder above assets/."""
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "path"]) == 0
    demo = Path(capsys.readouterr().out.strip())
    assert demo == DEMO
    assert main(["weights", str(demo / "recipe.yml")]) == 0
    assert "model.embed_tokens.weight" in capsys.readouterr().out


def test_a_message_is_for_the_user() -> None:
    """The rule that `main` follows, and its twin."""
    from workbench.errors import is_user_error

    assert is_user_error(SessionError("x")) and not is_user_error(ValueError("x"))


EXPERTS = [f"assets/demo/{name}" for name in ("cot", "mathqa", "p3", "sni", "dialog")]


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "assets/demo/base", *EXPERTS],
        ["weights", "assets/demo/recipe.yml"],
        ["rounding", "assets/demo/recipe.yml", "--dtype", "bfloat16"],
        ["methods"],
        ["loss", "assets/demo/recipe.yml", "--data", "assets/demo/data", "--limit", "1"],
        ["bench", "assets/demo/recipe.yml", "--tasks", "demo_mathqa", "--limit", "1"],
        ["compare", "assets/demo/base", *EXPERTS, "--data", "assets/demo/data", "--workdir", "{}"],
    ],
    ids=lambda words: words[0],
)
def test_tables_of_the_demo_fit_80_columns(
    words: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([word.replace("{}", str(tmp_path / "wd")) for word in words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1 and [line for line in lines if len(line) > 80] == []


def test_inspect_says_whether_models_are_compatible(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["inspect", "assets/demo/base", "assets/demo/cot"]) == 0
    assert "\ncompatible: 1 checkpoint can be merged into the base\n" in capsys.readouterr().out
    assert main(["inspect", "assets/demo/base", "assets/demo/cot", "nowhere"]) == 2
    assert "not compatible: 1 error" in capsys.readouterr().out
