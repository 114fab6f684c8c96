"""dem influence vectors, mixture, omega and try: results, files, and what bad input gets."""

import csv
import json

import pytest

from evaluation.records.ledger import FILE, Ledger
from tests.workbench.influence_runs.test_commands import say
from workbench.cli import main

__all__ = ["say"]


def test_vectors_on_examples(say, world, tmp_path):
    out, table, workdir = tmp_path / "v.csv", tmp_path / "v.json", tmp_path / "workdir"
    words = ["influence", "vectors", world / "recipe.yml", "--data", world / "data", "--limit", 3]
    code, text, _ = say(*words, "--out", out, "--json", table, "--workdir", workdir)
    assert code == 0 and "Share of the examples that each vector helps" in text
    assert max(map(len, text.splitlines())) <= 80
    content = json.loads(table.read_text())
    assert [each["dataset"] for each in content["datasets"]] == ["ada", "bob", "lora"]
    first = content["datasets"][0]
    # Three examples are too few to be split into halves: NaN is null.
    assert first["agreement"] is None and content["ekfac"] is None and first["examples"] == 3
    assert [each["vector"] for each in first["vectors"]] == ["ada", "bob", "lora"]
    assert sum(each["best_of"] for each in first["vectors"]) <= 3
    assert len(list(csv.DictReader(out.read_text().splitlines()))) == 9
    with Ledger(workdir / FILE) as ledger:
        [phase] = ledger.phases("influence")
    assert phase.complete and phase.examples == 9
    code, _, err = say(*words, "--out", out)
    assert code == 2 and "v.csv exists" in err
    code, _, err = say(*words, "--sample", 5)
    assert code == 2 and "Give --domains too" in err


def test_omegas_become_a_plan_and_come_back(say, world, mix_plan, tmp_path):
    """0.5 · 120 of ada and 0.75 · 80 of lora; bob has no part in it."""
    recipe, plan, seen = world / "recipe.yml", mix_plan(), ["--seen", "ada=120,lora=80"]
    out, facts = tmp_path / "mixed.yml", tmp_path / "facts.json"
    code, text, _ = say("influence", "mixture", recipe, plan, out, *seen, "--json", facts)
    assert code == 0 and "left out, because ω is below 0" in text and "bob" in text
    assert json.loads(facts.read_text())["examples"] == {"ada": 60, "lora": 60}
    code, _, err = say("influence", "mixture", recipe, plan, out, *seen)
    assert code == 2 and "mixed.yml exists" in err
    code, text, _ = say("train", out, tmp_path / "trained", "--dry-run")
    assert code == 0 and "120" in text
    back = tmp_path / "back.yml"
    words = ["influence", "omega", recipe, out, back, *seen, "--json", facts, "--force"]
    code, _, _ = say(*words)
    assert code == 0
    assert json.loads(facts.read_text())["omegas"] == pytest.approx(
        {"ada": 0.5, "bob": 0, "lora": 0.75}
    )
    code, text, _ = say("loss", back, "--data", world / "data", "--limit", 2)
    assert code == 0 and "ada" in text


def test_proposals_are_ordered_without_training(say, world, mix_plan, tmp_path):
    table = tmp_path / "tried.json"
    words = ["influence", "try", world / "recipe.yml", mix_plan(), "--limit", 4]
    code, text, _ = say(*words, "--shares", "ada=0.5,lora=0.5", "--json", table)
    assert code == 0 and "lowest prediction first" in text and "measured" not in text
    content = json.loads(table.read_text())
    assert content["n"] == 2 and content["spearman"] is None
    assert content["seen"]["ada"] == {"examples": 23, "how": "one pass over the plan's source"}
    assert [each["name"] for each in content["proposals"]] == ["plan", "ada=0.5,lora=0.5"]
    assert content["proposals"][0]["measured"] is None
    code, _, err = say(*words)
    assert code == 2 and "only proposal" in err
    assert not list(tmp_path.glob("plan/*"))


@pytest.mark.slow
def test_proposals_are_verified_by_training(say, world, mix_plan, tmp_path):
    table, workdir = tmp_path / "tried.json", tmp_path / "workdir"
    words = ["influence", "try", world / "recipe.yml", mix_plan(), "--limit", 4]
    words += ["--shares", "ada=0.5,lora=0.5", "--shares", "bob=1", "--verify", tmp_path / "t"]
    code, text, err = say(*words, "--workdir", workdir, "--json", table)
    assert code == 0 and "Spearman of predicted and measured over 3 proposals" in text
    assert "bob=1: predicted" in err
    content = json.loads(table.read_text())
    assert sorted(each["place"] for each in content["proposals"]) == [1, 2, 3]
    assert -1 <= content["spearman"] <= 1 and set(content["spearman_per_set"]) == {
        "ada", "bob", "lora",
    }  # fmt: skip
    with Ledger(workdir / FILE) as ledger:
        spent = sum(row.wall_seconds for row in ledger.phases("training"))
    assert sum(each["trained_seconds"] for each in content["proposals"]) == pytest.approx(spent)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shares", "ada=0.5,lora=0.6"], "they sum to 1.1"),
        (["--shares", "eda=0.5,lora=0.5"], "did you mean 'ada'"),
        (["--shares", "equal", "--seen", "eda=5"], "--seen names eda"),
        (["--shares", "equal", "--seen", "ada"], "--seen is 'ada'; expected NAME=NUMBER"),
    ],
)
def test_bad_proposals_are_one_message(say, world, mix_plan, words, said):
    code, out, err = say("influence", "try", world / "recipe.yml", mix_plan(), *words)
    assert code == 2 and not out and said in err


def test_a_stop_ends_with_its_code(world, mix_plan, monkeypatch, capsys):
    from workbench.cli.following import StopFlag

    def asked(self):
        self.code = 143
        return True

    monkeypatch.setattr(StopFlag, "__call__", asked)
    words = ["influence", "try", world / "recipe.yml", mix_plan(), "--shares", "equal"]
    assert main([str(word) for word in words]) == 143
    assert "stopped" in capsys.readouterr().err
