"""Digests are hashed once, and never taken for those of other files."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from merging import Checkpoint
from merging.inputs import digest_cache
from merging.inputs.digest import DigestTree


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An own cache, in which young files are kept too, unless a test says otherwise."""
    monkeypatch.setenv("DEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digest_cache, "SETTLED", 0)
    return tmp_path / "cache" / "digests"


@pytest.fixture
def hashed(monkeypatch):
    """The tensors that were read for a digest, so far."""
    names, add = [], DigestTree.add

    def watched(self, name, start, data):
        names.append(name)
        add(self, name, start, data)

    monkeypatch.setattr(DigestTree, "add", watched)
    return names


@pytest.fixture
def model(tmp_path, write):
    return write(tmp_path / "model", {"w": torch.arange(300.0), "norm": torch.ones(9)})


def test_the_second_time_nothing_is_read(cache, model, hashed):
    digest = Checkpoint(model).digest
    assert sorted(hashed) == ["norm", "w"]
    (entry,) = cache.iterdir()
    assert json.loads(entry.read_text())["digest"] == digest
    again = Checkpoint(model)
    again.gather_digest()
    again["w"]
    assert again.digest == digest and len(hashed) == 2


def test_a_digest_that_was_gathered_is_kept_too(cache, model, hashed):
    checkpoint = Checkpoint(model)
    checkpoint.gather_digest()
    for name in checkpoint:
        checkpoint[name]
    digest = checkpoint.digest
    assert Checkpoint(model).digest == digest and len(hashed) == 2


def test_a_file_that_changed_is_hashed_again_and_its_entry_replaced(cache, model, hashed):
    first = Checkpoint(model).digest
    save_file({"w": torch.arange(300.0), "norm": torch.zeros(9)}, model / "model.safetensors")
    second = Checkpoint(model).digest
    assert second != first and len(hashed) == 4 and len(list(cache.iterdir())) == 1
    assert Checkpoint(model).digest == second and len(hashed) == 4


def test_a_change_that_hides_in_size_and_time_is_seen(cache, model):
    """The inode's own time tells what a tool that restores times has done."""
    file = model / "model.safetensors"
    before, digest = file.stat(), Checkpoint(model).digest
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    time.sleep(0.02)  # longer than a step of the clock
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )
    assert Checkpoint(model).digest != digest


def test_a_file_that_was_just_written_is_not_kept(cache, model, monkeypatch):
    """It could be written once more within one step of the clock, with the same times."""
    monkeypatch.undo()
    monkeypatch.setenv("DEM_CACHE", str(cache.parent))
    checkpoint = Checkpoint(model)
    assert checkpoint.digest and not cache.exists()
    # Neither with an old date: the time of the inode counts.
    os.utime(model / "model.safetensors", ns=(5, 5))
    assert Checkpoint(model).digest == checkpoint.digest and not cache.exists()
    later = time.time_ns() + digest_cache.SETTLED
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert Checkpoint(model).digest == checkpoint.digest and len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"format": 1, "files": [], "digest": "0123456789abcdef0123456789abcdef"}',
        b" " * (digest_cache.MOST_BYTES + 1),
    ],
)
def test_what_is_damaged_or_foreign_is_written_anew(content, cache, model):
    digest = Checkpoint(model).digest
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(content)
    assert Checkpoint(model).digest == digest and entry.read_bytes() == whole


@pytest.mark.parametrize("change", [{"digest": 5}, {"digest": "x" * 32}, {"format": 2}])
def test_an_entry_that_is_not_of_this_kind_is_written_anew(change, cache, model):
    digest = Checkpoint(model).digest
    (entry,) = cache.iterdir()
    entry.write_text(json.dumps({**json.loads(entry.read_text()), **change}))
    assert Checkpoint(model).digest == digest
    assert json.loads(entry.read_text())["digest"] == digest


def test_without_a_place_that_can_be_written_there_is_no_cache(model, tmp_path, monkeypatch):
    digest = Checkpoint(model).digest
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / ("x" * 300), ""):
        monkeypatch.setenv("DEM_CACHE", str(place))
        monkeypatch.setattr(digest_cache, "SETTLED", 0)
        assert Checkpoint(model).digest == digest
    assert (tmp_path / "file").read_bytes() == b""


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.delenv("DEM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert digest_cache.folder() == tmp_path / "dem-workbench" / "digests"
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for relative in ("", "caches"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert digest_cache.folder() == tmp_path / "me" / ".cache" / "dem-workbench" / "digests"

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert digest_cache.folder() is None and digest_cache.find(()) is None
    monkeypatch.setenv("DEM_CACHE", "")
    assert digest_cache.folder() is None


def test_it_stays_small(cache, monkeypatch, tmp_path, write):
    monkeypatch.setattr(digest_cache, "MOST", 3)
    models = [write(tmp_path / f"m{k}", {"w": torch.ones(k + 1)}) for k in range(5)]
    for number, path in enumerate(models):
        Checkpoint(path).digest
        for entry in cache.iterdir():
            if entry.stat().st_mtime > 100:
                os.utime(entry, (number, number))
    left = {json.loads(entry.read_text())["files"][0][0] for entry in cache.iterdir()}
    assert left == {str((path / "model.safetensors").resolve()) for path in models[2:]}


def test_an_entry_that_another_process_removes_does_no_harm(cache, monkeypatch, model):
    monkeypatch.setattr(digest_cache, "MOST", 0)
    cache.mkdir(parents=True)
    (cache / "gone.json").symlink_to("nowhere")  # listed, and not there when it is looked at
    assert Checkpoint(model).digest and list(cache.iterdir()) == [cache / "gone.json"]


def _digests(path, place, found):
    os.environ["DEM_CACHE"] = place
    digest_cache.SETTLED = 0
    found.put([Checkpoint(path).digest for _ in range(20)])


def test_processes_may_share_it(cache, model):
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    processes = [
        context.Process(target=_digests, args=(model, str(cache.parent), found)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    digests = {digest for _ in processes for digest in found.get(timeout=60)}
    for process in processes:
        process.join()
    assert digests == {Checkpoint(model).digest} and len(list(cache.iterdir())) == 1
