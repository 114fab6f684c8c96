"""Files out of a wheel: exactly those that are asked for, and messages for what is wrong."""

import subprocess
import zipfile

import pytest

from workbench.errors import SessionError
from workbench.real.wheels import Package, extract, read, wheel

SMALL = Package("small-thing", "1.0", 0.1)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / SMALL.wheel
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("small_thing/a.txt", "one")
        made.writestr("../outside.txt", "two")
    return path


def test_the_name_of_a_wheel_is_that_of_the_index():
    assert SMALL.wheel == "small_thing-1.0-py3-none-any.whl"
    assert Package("old", "2", 1, "py2.py3").wheel == "old-2-py2.py3-none-any.whl"


def test_what_is_asked_for_is_read_and_extracted(archive, tmp_path):
    assert read(archive, SMALL, ["small_thing/a.txt"]) == {"small_thing/a.txt": b"one"}
    assert extract(archive, SMALL, "small_thing/a.txt", tmp_path / "out").read_text() == "one"
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".txt"] == []


@pytest.mark.parametrize("how", [read, extract], ids=["read", "extracted"])
def test_a_missing_file_and_a_damaged_archive_are_named(archive, tmp_path, how):
    wanted = ["small_thing/b.txt"] if how is read else "small_thing/b.txt"
    more = () if how is read else (tmp_path / "out",)
    with pytest.raises(
        SessionError, match=r"holds no small_thing/b\.txt .*other version than 1\.0"
    ):
        how(archive, SMALL, wanted, *more)
    archive.write_bytes(b"no archive")
    with pytest.raises(SessionError, match="damaged"):
        how(archive, SMALL, wanted, *more)


def test_a_wheel_that_the_user_has_put_there_is_used(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was fetched"))
    assert wheel(SMALL, tmp_path, tmp_path / "scratch") == archive


def test_what_cannot_be_fetched_is_named_with_both_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(
            command, 1, "", "noise\nERROR: no network"
        ),
    )
    with pytest.raises(SessionError, match=r"no network.*connect to a package index.*put the file"):
        wheel(SMALL, tmp_path, tmp_path)
