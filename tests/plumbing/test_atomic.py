"""A file that appears whole, or stays as it was."""

from pathlib import Path

import pytest

from plumbing.atomic import replace_folder, write_whole


def test_a_file_is_written_and_written_over(tmp_path):
    for text in ("one ω\n", "two\n"):
        write_whole(tmp_path / "a.yml", text)
        assert [(file.name, file.read_text("utf-8")) for file in tmp_path.iterdir()] == [
            ("a.yml", text)
        ]


def test_what_fails_on_the_way_leaves_the_old_file_alone_in_its_folder(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.yml", "old")

    def fails(self, target):
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="the disk is full"):
        write_whole(tmp_path / "a.yml", "new")
    assert [(file.name, file.read_text("utf-8")) for file in tmp_path.iterdir()] == [
        ("a.yml", "old")
    ]


def test_a_folder_takes_the_place_of_another_or_of_none(tmp_path):
    for text in ("old", "new"):
        (tmp_path / "staged").mkdir()
        (tmp_path / "staged" / text).touch()
        replace_folder(tmp_path / "out", tmp_path / "staged")
        assert [each.name for each in tmp_path.iterdir()] == ["out"]
        assert [each.name for each in (tmp_path / "out").iterdir()] == [text]
