"""A study is opened again as it was begun, and refuses what is another one."""

import json
import shutil
from dataclasses import replace

import pytest

from corpus import Example, write_jsonl
from tests.workbench.influence_runs.conftest import QUICK
from workbench.errors import SessionError
from workbench.influence_runs.study import FILE, begin_study, open_study


@pytest.fixture
def begun(tiny_base, pool_data, tmp_path):
    """A study that is begun on a copy of the pool, and the data that it is of."""
    data = shutil.copytree(pool_data, tmp_path / "data")
    study, _ = begin_study(tmp_path / "study", str(tiny_base), data, "train", QUICK)
    return study, data


def test_a_study_is_opened_as_it_was_begun_from_any_folder(begun, tmp_path, monkeypatch):
    study, data = begun
    monkeypatch.chdir(tmp_path)
    opened = open_study(study.folder)
    assert opened == study
    assert {name: len(records) for name, records in opened.pool().items()} == {
        "sums": 30,
        "words": 20,
    }
    again, _ = begin_study(study.folder, study.base, data, "train", QUICK)
    assert again == study


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"share": 0.5}, "another share: 0.4, and 0.5 was given"),
        ({"rank": 3}, "another rank: 2, and 3"),
        ({"seed": 1}, "another seed"),
    ],
)
def test_other_settings_are_refused_by_name(begun, changed, named):
    study, data = begun
    with pytest.raises(SessionError, match=named):
        begin_study(study.folder, study.base, data, "train", replace(QUICK, **changed))
    assert open_study(study.folder) == study


def test_another_base_or_other_sources_are_refused_by_name(begun, tmp_path):
    study, data = begun
    with pytest.raises(SessionError, match="another base"):
        begin_study(study.folder, str(tmp_path), data, "train", QUICK)
    shutil.rmtree(data / "words")
    with pytest.raises(SessionError, match="another sources: sums, words, and sums was given"):
        begin_study(study.folder, study.base, data, "train", QUICK)


def test_changed_records_are_told_before_their_gradients_mislead(begun):
    study, data = begun
    write_jsonl(data / "sums" / "train.jsonl", [Example("1 plus 1 is", " 2")])
    with pytest.raises(SessionError, match="the source sums .* holds other records"):
        study.pool()
    with pytest.raises(SessionError, match="another the records of sums|the records of sums"):
        begin_study(study.folder, study.base, data, "train", QUICK)


def test_a_folder_of_something_else_is_left_alone(tiny_base, pool_data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SessionError, match="holds files that are no study"):
        begin_study(tmp_path, str(tiny_base), pool_data, "train", QUICK)
    with pytest.raises(SessionError, match="dem influence warmup"):
        open_study(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({"base": "x"}))
    with pytest.raises(SessionError, match="is no study"):
        open_study(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_pool_without_that_split_is_refused(tiny_base, pool_data, tmp_path):
    with pytest.raises(SessionError, match=r"no file <dataset>/dev\.jsonl"):
        begin_study(tmp_path / "study", str(tiny_base), pool_data, "dev", QUICK)
    assert not (tmp_path / "study").exists()
