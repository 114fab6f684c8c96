"""Nothing outside a folder is opened, whatever links lead there; a hub cache's blobs are inside."""

import errno
import os
from pathlib import Path

import pytest

from plumbing import inside_folder
from plumbing.inside_folder import open_inside, resolve_inside

HASH = "0123456789abcdef" * 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("s")
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "own").write_text("own")
    (folder / "sub" / "below").write_text("below")
    return folder


def refusal(folder: Path, name: str) -> str:
    with pytest.raises(OSError) as caught:
        open_inside(folder, name)
    return str(caught.value.strerror)


def read(folder: Path, name: str) -> str:
    with open_inside(folder, name) as file:
        return file.read().decode()


def test_files_and_links_that_stay_inside_are_read(folder, tmp_path):
    (folder / "link").symlink_to("sub/below")
    (folder / "sub" / "up").symlink_to("../own")
    (folder / "folder").symlink_to("sub")
    (tmp_path / "elsewhere").symlink_to(folder)
    assert [read(folder, name) for name in ("own", "link", "sub/up", "folder/below")] == [
        "own", "below", "own", "below",
    ]  # fmt: skip
    assert read(tmp_path / "elsewhere", "link") == "below"
    assert resolve_inside(folder, "link") == folder / "sub" / "below"


def test_links_that_lead_out_are_not_followed(folder, tmp_path):
    (folder / "relative").symlink_to("../secret")
    (folder / "absolute").symlink_to(tmp_path / "secret")
    (folder / "chain").symlink_to("relative")
    (folder / "folder").symlink_to(tmp_path)
    (tmp_path / "model-2").mkdir()
    (tmp_path / "model-2" / "x").write_text("s")
    (folder / "sibling").symlink_to("../model-2/x")
    (folder / "device").symlink_to("/dev/zero")
    for name in (
        "relative",
        "absolute",
        "chain",
        "folder/secret",
        "sibling",
        "device",
        "../secret",
    ):
        assert refusal(folder, name) == inside_folder.OUTSIDE
        assert resolve_inside(folder, name) is None


def test_what_is_no_readable_regular_file(folder):
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    for name in ("fifo", "sub", "loop", "."):
        assert refusal(folder, name) == inside_folder.SPECIAL
    assert refusal(folder, "absent") == os.strerror(errno.ENOENT)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    (snapshot / "1_Pooling").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / HASH).write_text("blob")
    (snapshot / "config.json").symlink_to(f"../../blobs/{HASH}")
    (snapshot / "1_Pooling" / "config.json").symlink_to(f"../../../blobs/{HASH}")
    return snapshot


def test_the_blobs_of_a_hub_cache_belong_to_its_snapshots(snapshot):
    assert read(snapshot, "config.json") == read(snapshot, "1_Pooling/config.json") == "blob"
    assert read(snapshot / "1_Pooling", "config.json") == "blob"


@pytest.mark.parametrize("what", ["other repository", "blob links on", "blobs link", "not a hash"])
def test_only_a_caches_own_blobs_do(snapshot, tmp_path, what):
    blobs = snapshot.parents[1] / "blobs"
    (tmp_path / "secret").write_text("s")
    link = snapshot / "LICENSE"
    if what == "other repository":
        other = snapshot.parents[2] / "models--org--private" / "blobs"
        other.mkdir(parents=True)
        (other / HASH).write_text("s")
        link.symlink_to(other / HASH)
    elif what == "blob links on":
        (blobs / HASH).unlink()
        (blobs / HASH).symlink_to(tmp_path / "secret")
        link.symlink_to(f"../../blobs/{HASH}")
    elif what == "blobs link":
        blobs.rename(tmp_path / "moved")
        blobs.symlink_to(tmp_path / "moved")
        link.symlink_to(f"../../blobs/{HASH}")
    else:
        (blobs / "id_rsa").write_text("s")
        link.symlink_to("../../blobs/id_rsa")
    assert refusal(snapshot, "LICENSE") == inside_folder.OUTSIDE


def test_a_folder_named_snapshots_alone_is_no_cache(tmp_path):
    folder = tmp_path / "mine" / "snapshots" / "x"
    folder.mkdir(parents=True)
    (tmp_path / "mine" / "blobs").mkdir()
    (tmp_path / "mine" / "blobs" / HASH).write_text("s")
    (folder / "f").symlink_to(f"../../blobs/{HASH}")
    assert refusal(folder, "f") == inside_folder.OUTSIDE


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_file_that_becomes_a_link_after_the_check_is_not_followed(
    folder, tmp_path, monkeypatch, swapped
):
    """The check and the opening cannot be told apart by somebody who swaps between them."""
    check = inside_folder._resolve

    def swap(*arguments):
        place = check(*arguments)
        (folder / "sub" / "below").unlink()
        if swapped == "file":
            (folder / "sub" / "below").symlink_to(tmp_path / "secret")
        else:
            (folder / "sub").rmdir()
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "below").write_text("s")
            (folder / "sub").symlink_to(tmp_path / "out")
        return place

    monkeypatch.setattr(inside_folder, "_resolve", swap)
    with pytest.raises(OSError):
        open_inside(folder, "sub/below")


def test_what_was_opened_is_checked_too(folder, monkeypatch):
    """A FIFO that takes the file's place between the look at it and its opening."""
    real = os.stat

    def stat(path, **more):
        status = real(path, **more)
        if path == "own":
            (folder / "own").unlink()
            os.mkfifo(folder / "own")
        return status

    monkeypatch.setattr(os, "stat", stat)
    assert refusal(folder, "own") == inside_folder.SPECIAL
