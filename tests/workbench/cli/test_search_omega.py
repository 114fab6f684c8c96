"""`dem search` as a user calls it: results, files, resuming, refusals."""

import json
from pathlib import Path

import pytest

from workbench.cli import main


@pytest.fixture
def call(world, tmp_path, monkeypatch):
    monkeypatch.chdir(world)

    def run(*more: str) -> int:
        common = ["search", "recipe.yml", "--data", "data", "--workdir", str(tmp_path / "w")]
        return main([*common, "--aim", "loss", "--unlimited", *more])

    return run


def test_it_reports_the_best_and_writes_it(call, tmp_path: Path, capsys) -> None:
    out, result = tmp_path / "best.yml", tmp_path / "result.json"
    assert call("--budget", "6", "--out", str(out), "--json", str(result)) == 0
    said = capsys.readouterr()
    assert "The best of 2 compositions (6 evaluations, 2 measured now):" in said.out
    assert "On validation:" in said.out and str(out) in said.out
    assert "no dataset has test.jsonl" in said.err
    found = json.loads(result.read_text())
    assert found["score"] == min(trial["score"] for trial in found["trials"])
    assert len(found["trials"]) == 2 and set(found["splits"]) == {"validation"}
    # The recipe that it wrote gives the loss that it reported.
    again = tmp_path / "again.json"
    assert main(["loss", str(out), "--data", "data", "--json", str(again)]) == 0
    losses = [row["value"] for row in json.loads(again.read_text())["losses"]]
    assert sum(losses) / 3 == pytest.approx(found["score"], rel=1e-5)
    assert call("--budget", "6", "--out", str(out)) == 2
    assert "exists already" in capsys.readouterr().err
    assert call("--budget", "6", "--out", str(out), "--force") == 0
    assert "(6 evaluations, 0 measured now)" in capsys.readouterr().out


def test_frozen_vectors_keep_the_omega_of_the_recipe(call, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    more = ["--freeze", "bob", "--low", "-1", "--method", "coordinate", "--budget", "4"]
    assert call(*more, "--json", str(result)) == 0
    trials = json.loads(result.read_text())["trials"]
    assert {trial["omegas"]["bob"] for trial in trials} == {-0.25}
    assert trials[0]["omegas"] == {"ada": 0.5, "bob": -0.25, "lora": 0.75}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--method", "gird"], "did you mean 'grid'?"),
        (["--report-split", "validation"], "the split that the search itself measures"),
        (["--freeze", "eve"], "no vector is called 'eve'"),
        (["--low", "2"], "from 2 to 1"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_message(call, capsys, more: list[str], words: str) -> None:
    assert call(*more) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and words in " ".join(said.err.split())


def test_a_recipe_of_another_method_is_refused(call, world, tmp_path: Path, capsys) -> None:
    text = (world / "recipe.yml").read_text().replace("task_arithmetic", "ties")
    other = world / "ties.yml"
    other.write_text(text)
    try:
        assert main(["search", "ties.yml", "--data", "data", "--workdir", str(tmp_path)]) == 2
    finally:
        other.unlink()
    assert "this recipe has the method ties" in capsys.readouterr().err
