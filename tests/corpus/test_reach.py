"""Reach: inside after links are resolved, and nothing is told about what is outside."""

import pytest

from corpus import CorpusError, read_datasets
from corpus.reach import ANYWHERE, Reach, check_plain_name


@pytest.fixture
def place(tmp_path):
    """A root with data, and a folder outside with a secret."""
    (tmp_path / "root" / "data").mkdir(parents=True)
    (tmp_path / "root" / "data" / "x.jsonl").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "secret").touch()
    return tmp_path


def test_what_is_inside(place, monkeypatch):
    reach = Reach((place / "root",))
    for inside in ("root", "root/data", "root/data/x.jsonl", "root/none", "root/../root/data"):
        assert reach.holds(place / inside) and reach.refusal(place / inside) is None
    for outside in ("", "out", "out/secret", "out/none", "root/../out", "rootless", "root/../.."):
        assert not reach.holds(place / outside)
        assert "is outside the folders this server may read" in reach.refusal(place / outside)
        assert ANYWHERE.holds(place / outside) and ANYWHERE.refusal(place / outside) is None
    # Relative paths too, and a name of the hub is a relative path.
    monkeypatch.chdir(place / "root")
    assert reach.holds("data") and not reach.holds("../out")
    monkeypatch.chdir(place / "out")
    assert not reach.holds("org/name")


def test_the_message_does_not_tell_what_exists_outside(place):
    reach = Reach((place / "root",))
    there, absent = (reach.refusal(place / "out" / name) for name in ("secret", "absent"))
    assert there.replace("secret", "absent") == absent
    assert "(none)" in Reach(()).refusal(place)


def test_links_that_lead_out_are_refused_wherever_they_are(place):
    reach = Reach((place / "root",))
    data = place / "root" / "data"
    (data / "again.jsonl").symlink_to(data / "x.jsonl")
    assert reach.refusal(data) is None
    for link, target in (("file", "out/secret"), ("folder", "out"), ("dangling", "out/none")):
        (data / link).symlink_to(place / target)
        for path in (data, place / "root"):
            assert f"{link} is a link that leads out" in reach.refusal(path)
        assert "is outside" in reach.refusal(data / link)
        (data / link).unlink()
    # A root that is only reached by a link.
    (place / "other").symlink_to(place / "root")
    assert Reach((place / "root",)).refusal(place / "other" / "data") is None


def test_a_blob_of_the_hubs_cache_is_inside_its_snapshot(place):
    repository = place / "models--org--name"
    snapshot = repository / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / ("a" * 40)).touch()
    (snapshot / "config.json").symlink_to(f"../../blobs/{'a' * 40}")
    assert Reach((snapshot,)).refusal(snapshot) is None
    (snapshot / "LICENSE").symlink_to(place / "out" / "secret")
    assert "LICENSE is a link that leads out" in Reach((snapshot,)).refusal(snapshot)


def test_a_folder_of_too_many_files_is_not_searched(place, monkeypatch):
    monkeypatch.setattr("corpus.reach.MOST", 2)
    for number in range(3):
        (place / "root" / str(number)).touch()
    assert "holds more than 2 files" in Reach((place / "root",)).refusal(place / "root")


def test_a_name_that_would_be_a_path_is_refused(tmp_path):
    for name in ("/etc/x", "../x", "a/b", "..", "~x", ".hidden", "a\nb", "a\\b"):
        with pytest.raises(CorpusError, match="split is .*, which is a path"):
            check_plain_name("split", name)
        with pytest.raises(CorpusError, match="split is .*, which is a path"):
            read_datasets(tmp_path, name)
    for name in ("train", "train[:10%]", "a-b.c", ""):
        check_plain_name("split", name)
