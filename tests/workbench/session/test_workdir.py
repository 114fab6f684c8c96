"""Names in a workdir: a plain name becomes a path below it, any other is refused."""

from pathlib import Path

import pytest

from workbench.errors import SessionError
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
