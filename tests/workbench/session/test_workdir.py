"""Names in a workdir: a plain name becomes a path below it, any other is refused."""

import logging
from pathlib import Path

import pytest

from workbench.errors import SessionError
from workbench.session.session import Session
from workbench.session.workdir import Workdir


def test_every_name_lies_below_the_root():
    workdir = Workdir(Path("here"))
    assert workdir.export("first") == Path("here/exports/first")
    assert workdir.run("mine") == Path("here/trained/mine")
    assert workdir.plan("mine") == Path("here/plans/mine.yml")
    files = (workdir.jobs, workdir.losses, workdir.runs, workdir.ledger, workdir.compared)
    assert len({file.name for file in files}) == 5 and {file.parent for file in files} == {
        Path("here")
    }


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../out",
        "/tmp/x",
        "a/b",
        "a\\b",
        ".hidden",
        "-x",
        "a" * 65,
        "a b",
        "a\n",
        "ω",
        "a\0b",
    ],
)
def test_a_name_that_is_no_plain_file_name_is_refused(name):
    workdir = Workdir(Path("here"))
    for path_of in (workdir.export, workdir.run, workdir.plan):
        with pytest.raises(SessionError, match="use 1 to 64 letters"):
            path_of(name)


def test_a_session_opens_on_damaged_files_and_logs_them(tmp_path, caplog):
    for name in ("jobs", "losses"):
        (tmp_path / f"{name}.sqlite").write_bytes(b"not a database at all" * 99)
    with caplog.at_level(logging.WARNING):
        session = Session([], tmp_path)
    assert session.jobs.recent() == [] and session.book.get("composition", "data") is None
    session.close()
    for name in ("jobs", "losses"):
        assert f"{name}.sqlite is damaged; it was kept as {name}.sqlite.corrupt-" in caplog.text
        assert len(list(tmp_path.glob(f"{name}.sqlite.corrupt-*"))) == 1
