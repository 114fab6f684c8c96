"""Writer: all bytes arrive, past the page cache or through it; disks may refuse or forget."""

import errno
import fcntl
import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merging import ExportError
from merging.outputs import writer
from merging.outputs.writer import Writer

PAGE = 4096


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Stretches of two pages, so that files of a few pages go to the disk in several."""
    monkeypatch.setattr(writer, "STRETCH", 2 * PAGE)


def content(nbytes, seed=0):
    return np.random.default_rng(seed).bytes(nbytes)


def held():
    """Threads and open files of this process."""
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def write(path, whole, cuts=()):
    ends = [*sorted(cuts), len(whole)]
    with Writer(path, len(whole)) as file:
        for begin, end in zip([0, *ends], ends, strict=False):
            piece = bytearray(whole[begin:end])
            file.write(memoryview(piece))
            piece[:] = bytes(len(piece))  # the caller's memory is free again
    return file


def through_the_cache(monkeypatch, code=errno.EINVAL):
    """A file system that has no way past the page cache says so when it is asked for one."""
    real = fcntl.fcntl

    def refuse(descriptor, command, flags=0):
        if command == fcntl.F_SETFL and flags & os.O_DIRECT:
            raise OSError(code, os.strerror(code))
        return real(descriptor, command, flags)

    monkeypatch.setattr(fcntl, "fcntl", refuse)


@settings(deadline=None)
@given(
    nbytes=st.integers(0, 9 * PAGE),
    cuts=st.lists(st.integers(0, 9 * PAGE), max_size=6),
    past=st.booleans(),
)
def test_the_file_holds_the_pieces_one_after_the_other(tmp_path_factory, nbytes, cuts, past):
    path, whole = tmp_path_factory.mktemp("w") / "file", content(nbytes)
    with pytest.MonkeyPatch.context() as patch:
        if not past:
            through_the_cache(patch)
        file = write(path, whole, [cut for cut in cuts if cut < nbytes])
    assert path.read_bytes() == whole
    assert (file.nbytes, file.sha256) == (nbytes, hashlib.sha256(whole).hexdigest())


@pytest.mark.parametrize("nbytes", [0, 1, PAGE, 2 * PAGE, 2 * PAGE + 1, 4 * PAGE, 7 * PAGE - 1])
def test_only_whole_stretches_go_past_the_cache_and_all_is_read_back(nbytes, tmp_path, monkeypatch):
    """Seven pages less a byte: 3 stretches of two pages past the cache, then 4,095 bytes."""
    with (tmp_path / "asked").open("w") as file:
        if not writer._set_direct(file.fileno(), True):
            pytest.skip(f"{tmp_path} is on a file system that has no way past the page cache")
    wrote, read = [], []
    real_write, real_read = os.pwrite, os.preadv

    def direct(descriptor):
        return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)

    def pwrite(descriptor, values, begin):
        wrote.append((begin, len(values), direct(descriptor)))
        return real_write(descriptor, values, begin)

    def preadv(descriptor, buffers, begin):
        read.append((begin, len(buffers[0])))
        return real_read(descriptor, buffers, begin)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "preadv", preadv)
    write(tmp_path / "file", content(nbytes))
    whole, rest = divmod(nbytes, 2 * PAGE)
    wanted = [(2 * PAGE * i, 2 * PAGE, True) for i in range(whole)] + [
        (2 * PAGE * whole, rest, False)
    ] * bool(rest)
    assert wrote == wanted
    assert read == [(begin, size) for begin, size, _ in wanted]


def test_without_such_a_flag_it_writes_through_the_cache(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECT")
    write(tmp_path / "file", content(5 * PAGE))
    assert (tmp_path / "file").read_bytes() == content(5 * PAGE)


def test_a_disk_that_takes_no_direct_writes_after_all_is_written_through_the_cache(
    tmp_path, monkeypatch
):
    """Some file systems take the flag and refuse the write."""
    real, refused = os.pwrite, []

    def pwrite(descriptor, values, begin):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(begin)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(descriptor, values, begin)

    monkeypatch.setattr(os, "pwrite", pwrite)
    write(tmp_path / "file", content(5 * PAGE))
    assert refused == [0]
    assert (tmp_path / "file").read_bytes() == content(5 * PAGE)


def test_writes_and_reads_that_are_cut_short_go_on(tmp_path, monkeypatch):
    real_write, real_read = os.pwrite, os.preadv
    monkeypatch.setattr(
        os, "pwrite", lambda at, values, begin: real_write(at, values[:PAGE], begin)
    )
    monkeypatch.setattr(
        os, "preadv", lambda at, buffers, begin: real_read(at, [buffers[0][:PAGE]], begin)
    )
    write(tmp_path / "file", content(7 * PAGE))
    assert (tmp_path / "file").read_bytes() == content(7 * PAGE)


@pytest.mark.parametrize("stretch", range(4))
def test_a_disk_that_forgets_is_found_out(stretch, tmp_path, monkeypatch):
    real = os.pwrite

    def forgetful(descriptor, values, begin):
        if begin == 2 * PAGE * stretch:
            values[5] ^= 1
        return real(descriptor, values, begin)

    monkeypatch.setattr(os, "pwrite", forgetful)
    with pytest.raises(
        ExportError,
        match=rf"file: from byte {2 * PAGE * stretch:,} on, the disk does not hold what was",
    ):
        write(tmp_path / "file", content(7 * PAGE))


def test_a_file_that_is_cut_short_behind_the_writing_is_found_out(tmp_path, monkeypatch):
    real = os.preadv

    def preadv(descriptor, buffers, begin):
        os.truncate(tmp_path / "file", PAGE)
        return real(descriptor, buffers, begin)

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(
        ExportError, match="from byte 0 on, the disk does not hold what was written"
    ):
        write(tmp_path / "file", content(2 * PAGE))


@pytest.mark.parametrize("call", range(4))
@pytest.mark.parametrize("name", ["pwrite", "preadv"])
def test_a_disk_that_refuses_ends_it(name, call, tmp_path, monkeypatch):
    real, calls = getattr(os, name), iter(range(100))

    def refuse(*given):
        if next(calls) == call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*given)

    monkeypatch.setattr(os, name, refuse)
    before = held()
    with pytest.raises(OSError, match="Input/output error"):
        write(tmp_path / "file", content(7 * PAGE), range(0, 7 * PAGE, 1000))
    assert held() == before


def test_a_flag_that_is_refused_for_another_reason_is_told(tmp_path, monkeypatch):
    through_the_cache(monkeypatch, errno.EPERM)
    before = held()
    with pytest.raises(PermissionError):
        Writer(tmp_path / "file", 5 * PAGE)
    assert held() == before


def test_an_error_in_the_block_writes_no_more(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    before = held()
    with pytest.raises(KeyboardInterrupt), Writer(tmp_path / "file", 7 * PAGE) as file:
        file.write(memoryview(content(5 * PAGE)))
        raise KeyboardInterrupt
    assert not synced
    assert held() == before


def test_a_file_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        Writer(tmp_path / "file", 10)
    assert (tmp_path / "file").read_text() == "mine"
