"""What commands say: `--json` to files, stdout and devices, checked before the work; notes and `--quiet`."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from workbench.cli import main
from workbench.cli.output import QUIET, Report, fail, note, report_to, warn, wrapped
from workbench.errors import SessionError

CONTENT = {"ω": [0.5, None]}


def refusal(file: Path, force: bool = False) -> str:
    with pytest.raises(SessionError) as caught:
        report_to(file, force)
    return str(caught.value)


# ------------------------------------------------------------------------------------------ --json


def test_a_new_file_appears_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_to(tmp_path / "r.json", force=False)
    assert list(tmp_path.iterdir()) == []  # the check leaves nothing behind
    report.show("a table")
    report.write(CONTENT)
    assert json.loads((tmp_path / "r.json").read_text("utf-8")) == CONTENT
    assert capsys.readouterr().out == "a table\n"
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    nan = float("nan")
    report_to(tmp_path / "r.json", force=False).write({"a": [nan, 1.5], "b": {"c": (nan,)}})
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": [None, 1.5], "b": {"c": [None]}}
    with pytest.raises(ValueError):
        report_to(tmp_path / "x.json", force=False).write({"a": float("inf")})
    assert not (tmp_path / "x.json").exists()


def test_without_json_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_to(None, force=False)
    report.show("a table")
    report.write(CONTENT)
    assert capsys.readouterr() == ("a table\n", "")


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text("mine")
    assert refusal(file) == (
        f"--json: {file} exists. Add --force to overwrite it, or give another file."
    )
    assert file.read_text() == "mine"
    report_to(file, force=True).write(CONTENT)
    assert json.loads(file.read_text()) == CONTENT


@pytest.mark.parametrize("force", [False, True])
def test_a_missing_folder_and_a_folder_are_refused(tmp_path: Path, force: bool) -> None:
    assert refusal(tmp_path / "no" / "r.json", force) == (
        f"--json: {tmp_path / 'no'} is not a folder. Make it first, or give another file."
    )
    (tmp_path / "file").write_text("")
    assert "file is not a folder" in refusal(tmp_path / "file" / "r.json", force)
    assert refusal(tmp_path, force) == f"--json: {tmp_path} is a folder. Give a file in it."


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    link.symlink_to(target)  # it dangles: the file is made where it points
    report_to(link, force=False).write(CONTENT)
    assert link.is_symlink() and json.loads(target.read_text()) == CONTENT
    assert "exists" in refusal(link)
    report_to(link, force=True).write({})
    assert link.is_symlink() and target.read_text() == "{}\n"


def test_a_link_to_nowhere_and_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "far").symlink_to(tmp_path / "no" / "r.json")
    assert f"{tmp_path / 'no'} is not a folder" in refusal(tmp_path / "far")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "cannot be written" in refusal(tmp_path / "a")


def test_a_folder_that_takes_no_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is mounted read-only, where root is refused too."""

    def refused(self: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "touch", refused)
    assert refusal(tmp_path / "r.json") == (
        f"--json: {tmp_path / 'r.json'} cannot be written (Read-only file system). "
        "Give another file."
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in refusal(tmp_path / "r.json")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_place_that_takes_no_files_is_refused_to_root_too() -> None:
    assert "/proc/r.json cannot be written (" in refusal(Path("/proc/r.json"))


def test_names_that_no_file_can_have_are_refused(tmp_path: Path) -> None:
    assert "File name too long" in refusal(tmp_path / ("x" * 300))
    assert "looks like an option" in refusal(Path("--force"))


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    report_to(pipe, force=False).write(CONTENT)
    reader.join(20)
    assert json.loads(received[0]) == CONTENT and pipe.is_fifo()


def test_a_device_is_written_to_and_stays() -> None:
    """Root may replace /dev/null by a file, and did: everything else on the machine then breaks."""
    before = Path("/dev/null").stat()
    report_to(Path("/dev/null"), force=True).write(CONTENT)
    after = Path("/dev/null").stat()
    assert (after.st_rdev, after.st_ino) == (before.st_rdev, before.st_ino)


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_stdout_gets_json_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_to(Path(name), force=False)
    report.show("a table")
    report.write(CONTENT)
    out, err = capsys.readouterr()
    assert json.loads(out) == CONTENT and err == "a table\n"


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/proc/self/fd/1"])
@pytest.mark.parametrize("sink", ["pipe", "file"])
@pytest.mark.slow
def test_stdout_of_a_real_process(tmp_path: Path, name: str, sink: str) -> None:
    """Also if stdout is a file, which --force and a rename would replace by another."""
    file = tmp_path / "out.txt"
    file.write_text("")
    with file.open("w") as stream:
        code = f"from workbench.cli import main; raise SystemExit(main(['methods', '--json', {name!r}]))"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            stdout=stream if sink == "file" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    out = file.read_text() if sink == "file" else done.stdout
    assert json.loads(out)[0]["name"] == "arcee_fusion"
    assert "task_arithmetic: Θ + λ · Σ ωᵢ Δᵢ" in done.stderr


def test_a_file_that_cannot_be_written_at_the_end_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    report = report_to(folder / "r.json", force=False)
    folder.rmdir()
    with pytest.raises(SessionError, match=r"--json: .*r\.json cannot be written \(No such file"):
        report.write(CONTENT)


VERBS = [
    ["inspect", "nowhere", "nothing"],
    ["weights", "nowhere.yml"],
    ["rounding", "nowhere.yml"],
    ["methods"],
    ["loss", "nowhere", "--data", "nowhere"],
    ["bench", "nowhere", "--suite", "demo"],
    ["compare", "nowhere", "nothing"],
    ["extract", "nowhere", "nothing", "out", "--rank", "2"],
    ["train", "nowhere.yml", "out"],
    ["train", "nowhere.yml", "out", "--dry-run"],
]


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_every_verb_checks_the_file_before_it_works(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """None of the inputs exists: if anything was read before the check, that error would come."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.json").write_text("mine")
    assert main([*words, "--json", str(tmp_path / "no" / "r.json")]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        f"error: --json: {tmp_path / 'no'} is not a folder. Make it first, or give another file.\n",
    )
    assert main([*words, "--json", "old.json"]) == 2
    assert capsys.readouterr().err.startswith("error: --json: old.json exists. Add --force")
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "mine"
    if words == ["methods"]:
        assert main([*words, "--json", "old.json", "--force"]) == 0
        assert json.loads((tmp_path / "old.json").read_text())[0]["name"] == "arcee_fusion"


# ------------------------------------------------------------------------------------------- lines


def test_notes_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    note("a note")
    warn("a warning")
    fail("an error\nand its second line\n")
    assert capsys.readouterr() == (
        "",
        "a note\nwarning: a warning\nerror: an error\n       and its second line\n",
    )


def test_quiet_leaves_results_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    token = QUIET.set(True)
    try:
        note("a note")
        warn("a warning")
        fail("an error")
        Report().show("a result")
        Report(on_stdout=True).show("the same as text")
    finally:
        QUIET.reset(token)
    assert capsys.readouterr() == ("a result\n", "error: an error\n")


def test_wrapped_lines_fit_and_keep_their_words() -> None:
    text = "short\n\n    " + "word " * 30 + "https://example.org/" + "x" * 90
    lines = wrapped(text).splitlines()
    assert lines[:2] == ["short", ""]
    assert [len(line) > 80 for line in lines] == [False] * (len(lines) - 1) + [True]
    assert all(line.startswith("    ") for line in lines[2:])
    assert wrapped(text).split() == text.split()
