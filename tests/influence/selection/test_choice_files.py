"""What is written: a selection that a plan reads, and a table for people."""

import csv
import json

import pytest

from corpus import CorpusError, Example, Source, load, write_jsonl
from influence.selection.budget import Budget
from influence.selection.choice_files import write_choice
from influence.selection.choose import choose
from influence.selection.example_set import load_examples

RECORDS = {
    "sums": [Example(f"{at}+1=", f"{at + 1}", label="easy") for at in range(7)],
    "=code": [Example("-print,", 'say "hi"\nbye'), Example("run", "go")],
}


@pytest.fixture
def sources(tmp_path):
    for name, own in RECORDS.items():
        write_jsonl(tmp_path / f"{name}.jsonl", own)
    return {name: Source(name, str(tmp_path / f"{name}.jsonl")) for name in RECORDS}


def test_a_selection_and_a_table(sources, letters, scored, tmp_path):
    pool = load_examples(sources, letters)
    scores = scored(pool, [[1, 8], [2, 1], [7, 2], [3, 3], [4, 4], [0, 5], [1, 1], [6, 6], [5, 0]])
    choice = choose(pool, scores, Budget(3), seed=None)
    path = tmp_path / "out" / "best.selection.json"
    made = write_choice(path, sources, pool, choice)
    assert made.chosen == choice.chosen == (("sums", 2, 7.0), ("sums", 0, 8.0), ("=code", 0, 6.0))
    assert load(Source("best", str(path))) == [pool.examples[row].record for row in choice.rows]
    assert json.loads(path.read_text("utf-8"))["about"] == "by hand, round_robin: 3 of 9 examples"
    text = path.with_name("best.csv").read_text("utf-8")
    assert list(csv.reader(text.splitlines(keepends=True))) == [
        ["rank", "source", "number", "score", "query", "supervised", "tokens", "text"],
        ["1", "sums", "2", "7.0", "q0", "2", "6", "2+1=3"],
        ["2", "sums", "0", "8.0", "q1", "2", "6", "0+1=1"],
        ["3", "'=code", "0", "6.0", "q0", "13", "20", '\'-print,say "hi"\nbye'],
    ]


def test_nothing_is_written_if_the_selection_is_refused(sources, letters, scored, tmp_path):
    pool = load_examples(sources, letters)
    choice = choose(pool, scored(pool, range(1, 10)), Budget(3), policy="mean")
    with pytest.raises(CorpusError, match="no source is called =code"):
        write_choice(tmp_path / "best.selection.json", {"sums": sources["sums"]}, pool, choice)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["=code.jsonl", "sums.jsonl"]
