"""Downloads of answers: attachments only, of the listed files only."""

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from workbench.line.data_files import add_data_files
from workbench.session.workdir import Workdir


class Held:
    """A session as far as the route needs it."""

    def __init__(self, root):
        self.workdir = Workdir(root)


@pytest.fixture
def client(tmp_path):
    folder = tmp_path / "data" / "misfiled" / "one"
    folder.mkdir(parents=True)
    (folder / "suspects.csv").write_text("<script>1</script>\n")
    (folder / "run.json").write_text("{}")
    other = tmp_path / "data" / "other" / "one"  # a folder that is no question
    other.mkdir(parents=True)
    (other / "result.json").write_text("{}")
    app, router = FastAPI(), APIRouter(prefix="/live")
    add_data_files(router, Held(tmp_path))
    app.include_router(router)
    return TestClient(app)


def test_a_table_is_an_attachment(client):
    got = client.get("/live/data/misfiled/one/suspects.csv")
    assert got.status_code == 200 and got.text == "<script>1</script>\n"
    assert got.headers["content-disposition"] == 'attachment; filename="suspects.csv"'
    assert got.headers["content-type"].startswith("text/csv")


@pytest.mark.parametrize(
    "path",
    [
        "misfiled/one/run.json",
        "misfiled/one/..%2F..%2Fledger.sqlite",
        "misfiled/..%2Fone/suspects.csv",
        "misfiled/two/suspects.csv",
        "..%2Fmisfiled/one/suspects.csv",
        "other/one/result.json",
    ],
)
def test_nothing_else_is_found(client, path):
    assert client.get(f"/live/data/{path}").status_code == 404
