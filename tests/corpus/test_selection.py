"""Selections: records of other sources by number and score, and what makes them refuse to be read."""

import json
from dataclasses import replace

import pytest

from corpus import (
    Chosen,
    CorpusError,
    Example,
    Source,
    load,
    read_selection,
    write_jsonl,
    write_selection,
)
from corpus.reach import Reach

MATH = [Example(f"{n} + 1 =", f" {n + 1}", label="sums") for n in range(8)]
CODE = [Example(f"print {n}", f" {n}") for n in range(4)]
CHOSEN = [Chosen("math", 5, 0.9), Chosen("code", 3, 0.5), Chosen("math", 0, -0.25)]


@pytest.fixture
def sources(tmp_path):
    write_jsonl(tmp_path / "data" / "math.jsonl", MATH)
    write_jsonl(tmp_path / "data" / "code" / "train.jsonl", CODE)
    return {
        "math": Source("math", str(tmp_path / "data" / "math.jsonl")),
        "code": Source("code", str(tmp_path / "data" / "code")),
        "unused": Source("unused", "nowhere"),
    }


@pytest.fixture
def path(tmp_path, sources):
    path = tmp_path / "chosen" / "best.selection.json"
    write_selection(path, sources, CHOSEN, about="by hand")
    return path


def test_a_selection_by_hand(path, tmp_path):
    read = read_selection(path)
    assert read.chosen == tuple(CHOSEN)
    assert read.records == (MATH[5], replace(CODE[3], label="code"), MATH[0])
    document = json.loads(path.read_text("utf-8"))
    assert document["about"] == "by hand" and document["digest"] == read.digest
    assert document["chosen"] == [["math", 5, 0.9], ["code", 3, 0.5], ["math", 0, -0.25]]
    assert list(document["sources"]) == ["math", "code"]
    assert document["sources"]["math"]["path"] == "../data/math.jsonl"
    assert document["sources"]["math"]["records"] == 8
    # The same records in the same order have the same digest, wherever the file is.
    again = tmp_path / "again.selection.json"
    moved = {name: Source(name, document["sources"][name]["path"]) for name in ("math", "code")}
    home = {
        name: replace(source, path=str(path.parent / source.path)) for name, source in moved.items()
    }
    assert write_selection(again, home, CHOSEN).digest == read.digest
    assert write_selection(again, home, CHOSEN[::-1]).digest != read.digest


def test_it_is_a_source(path):
    whole = load(Source("best", str(path)))
    assert whole == list(read_selection(path).records)
    assert [record.label for record in whole] == ["sums", "code", "sums"]
    part = load(Source("best", str(path), share="2/3"))
    assert len(part) == 2 and all(record in whole for record in part)


def test_a_folder_may_be_moved_with_its_sources(path, tmp_path, monkeypatch):
    before = read_selection(path)
    (tmp_path / "elsewhere").mkdir()
    for name in ("chosen", "data"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    monkeypatch.chdir("/")
    assert read_selection(tmp_path / "elsewhere" / "chosen" / path.name) == before


def test_settings_of_a_source_count(tmp_path, sources):
    half = replace(sources["math"], share="1/2", seed=3, label_field="", plain=True)
    path = tmp_path / "half.selection.json"
    made = write_selection(path, {"math": half}, [Chosen("math", 3, 1)])
    assert made.records == (load(half)[3],)
    assert read_selection(path) == made
    with pytest.raises(CorpusError, match="math has records 0 to 3, and 4 is chosen"):
        write_selection(path, {"math": half}, [Chosen("math", 4, 1)])


@pytest.mark.parametrize("change", ["order", "text", "more"])
def test_a_source_that_has_changed_is_refused(path, tmp_path, change):
    changed = {
        "order": MATH[::-1],
        "text": [*MATH[:7], replace(MATH[7], completion=" 9")],
        "more": [*MATH, CODE[0]],
    }[change]
    write_jsonl(tmp_path / "data" / "math.jsonl", changed)
    with pytest.raises(CorpusError, match=r"source math: .* holds other records than when"):
        load(Source("best", str(path)))


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ([], "nothing is chosen"),
        ([Chosen("maths", 0, 1)], "no source is called maths"),
        ([Chosen("math", 8, 1)], "records 0 to 7, and 8 is chosen"),
        ([Chosen("math", -1, 1)], "and -1 is chosen"),
        ([Chosen("math", 0, float("nan"))], "score is nan"),
        ([Chosen("math", 0, float("inf"))], "score is inf"),
        ([Chosen("math", 0, 1), Chosen("code", 0, 1), Chosen("math", 0, 2)], "chosen twice"),
    ],
)
def test_what_cannot_be_chosen_is_refused_and_nothing_is_written(tmp_path, sources, chosen, words):
    path = tmp_path / "best.selection.json"
    with pytest.raises(CorpusError, match=words):
        write_selection(path, sources, chosen)
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: "[]", "expected \"sources\" and \"chosen\""),
        (lambda document: "{", "no selection that can be read"),
        (lambda document: document | {"sources": {"math": "x"}}, "is no selection"),
        (lambda document: document | {"chosen": [["math", 0]]}, r"chosen\[0\]: expected \[source"),
        (lambda document: document | {"chosen": [["math", "0", 1]]}, r"chosen\[0\]: expected"),
        (lambda document: document | {"chosen": [["math", True, 1]]}, "True is chosen"),
        (lambda document: document | {"chosen": [["other", 0, 1]]}, "no source is called 'other'"),
        (lambda document: document | {"sources": {"math": {"path": 3}}}, "expected a path"),
        (lambda document: document | {"sources": {"math": {"path": "a", "x": 1}}}, "expected a path"),
        (
            lambda document: document | {"sources": {"math": {"path": "a.selection.json"}}},
            "is a selection itself",
        ),
        (lambda document: document | {"sources": {"math": {"path": "a.jsonl"}}}, "no file or folder"),
    ],
)  # fmt: skip
def test_files_that_are_no_selection_are_refused(path, change, words):
    made = change(json.loads(path.read_text("utf-8")))
    path.write_text(made if isinstance(made, str) else json.dumps(made), "utf-8")
    with pytest.raises(CorpusError, match=words):
        load(Source("best", str(path)))


def test_names_and_selections_of_selections_are_refused(path, tmp_path, sources):
    with pytest.raises(CorpusError, match=r"ends in \.selection\.json"):
        write_selection(tmp_path / "best.json", sources, CHOSEN)
    inner = {"best": Source("best", str(path))}
    with pytest.raises(CorpusError):
        write_selection(tmp_path / "more.selection.json", inner, [Chosen("best", 0, 1)])


def test_what_a_selection_names_must_be_within_reach(path, tmp_path):
    inside = Reach((path.parent.resolve(),), hub=False)
    messages = []
    for exists in (True, False):
        if not exists:
            (tmp_path / "data" / "math.jsonl").unlink()
        with pytest.raises(CorpusError, match="outside the folders this server may read") as caught:
            load(Source("best", str(path)), reach=inside)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]  # it does not tell what exists outside
    whole = Reach((tmp_path.resolve(),), hub=False)
    with pytest.raises(CorpusError, match="no file or folder here"):
        load(Source("best", str(path)), reach=whole)


def test_a_plan_trains_on_a_selection(path, tmp_path):
    from training.plan.estimate import estimate
    from training.plan.plan_file import parse_plan
    from workbench.demo.blank_base import write_blank

    texts = [text for record in MATH + CODE for text in (record.prompt, record.completion)]
    write_blank(tmp_path / "base", texts, vocabulary=300, hidden=32)
    plan = parse_plan(
        "base: base\nsources: {best: chosen/best.selection.json}\nschedule: {kind: experts}\n"
        "settings: {epochs: 2, batch: 3, device: cpu, precision: fp32, group_by: task, leftover: fill}",
        home=tmp_path,
    )
    (ready,) = estimate(plan)
    assert ready.stage.examples == read_selection(path).records
    assert sorted(ready.groups.labels) == ["code", "sums"]
