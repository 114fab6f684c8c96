"""Misfiled examples of the demo: planted faults come first, in the list and in the files."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from corpus import read_datasets, write_jsonl
from workbench.cli import main

DEMO = Path(__file__).parents[3] / "assets" / "demo"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Ten examples of cot, of which one is mathqa's and one has the answer of another."""
    data = read_datasets(DEMO / "data", "train")
    own = data["cot"][:10]
    own[3] = data["mathqa"][0]
    own[7] = replace(own[7], completion=own[2].completion)
    folder = tmp_path_factory.mktemp("faulty")
    write_jsonl(folder / "cot" / "train.jsonl", own)
    return folder


@pytest.mark.slow
def test_planted_faults_come_first(faulty, tmp_path, capsys):
    out, table = tmp_path / "suspects.csv", tmp_path / "suspects.json"
    words = ["misfiled", DEMO / "recipe.yml", "--data", faulty, "--out", out, "--json", table]
    assert main([str(word) for word in words]) == 0
    text = capsys.readouterr().out
    assert "cot: the most suspicious of 10" in text
    suspects = json.loads(table.read_text())["suspects"]
    assert {each["number"] for each in suspects[:2]} == {3, 7}
    assert [each["suspicion"] for each in suspects] == sorted(
        (each["suspicion"] for each in suspects), reverse=True
    )
    moved = next(each for each in suspects if each["number"] == 3)
    assert moved["better"] == "mathqa" and moved["loss_margin"] > 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [int(row["number"]) for row in rows] == [each["number"] for each in suspects]
    assert moved["drop"] == pytest.approx(moved["base_loss"] - moved["own_loss"])
    before = out.read_bytes()
    assert main([str(word) for word in [*words[:-2], "--json", "-"]]) == 2
    assert "suspects.csv exists" in capsys.readouterr().err and out.read_bytes() == before


def test_a_dataset_without_an_expert_is_refused(faulty, tmp_path, capsys):
    data = tmp_path / "data"
    write_jsonl(data / "other" / "train.jsonl", read_datasets(faulty, "train")["cot"])
    words = ["misfiled", DEMO / "recipe.yml", "--data", data, "--out", tmp_path / "x.csv"]
    assert main([str(word) for word in words]) == 2
    assert "there is no vector for other; there are cot" in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
