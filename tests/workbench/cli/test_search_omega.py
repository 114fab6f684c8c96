"""`dem search` as a user calls it: results, files, resuming, refusals."""

import json
from pathlib import Path

import pytest

from workbench.cli import main
from workbench.search.record import SearchRecord


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
        (["--prefer", "ada:2"], "--prefer is 'ada:2', expected NAME=W"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_message(call, capsys, more: list[str], words: str) -> None:
    assert call(*more) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and words in " ".join(said.err.split())


def test_another_method_is_searched_beside_task_arithmetic(
    call, world, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("os.nice", lambda by: by)  # a process of tests stays as urgent as it is
    record, told = SearchRecord(tmp_path), []
    monkeypatch.setattr(SearchRecord, "write_problem", lambda own, words: told.append(words))
    text = (world / "recipe.yml").read_text().replace("task_arithmetic", "ties")
    other, result, out = world / "ties.yml", tmp_path / "result.json", tmp_path / "best.yml"
    other.write_text(text)
    more = ["--data", "data", "--workdir", str(tmp_path), "--aim", "loss", "--unlimited"]
    more += ["--method", "coordinate", "--budget", "5", "--vary", "density=0.2:0.8"]
    more += ["--record", str(tmp_path)]
    try:
        assert main(["search", "ties.yml", *more, "--json", str(result), "--out", str(out)]) == 0
        said = capsys.readouterr().out
        assert main(["search", "ties.yml", *more, "--vary", "dens"]) == 2
        assert "ties has no number that is called 'dens'" in capsys.readouterr().err
        assert main(["search", "ties.yml", *more, "--vary", "density=0.2-0.8"]) == 2
        assert "expected NAME or NAME=LOW:HIGH" in capsys.readouterr().err
    finally:
        other.unlink()
    assert "With the same budget:" in said and "task_arithmetic" in said
    found = json.loads(result.read_text())
    assert found["evaluations"] == found["task_arithmetic"]["evaluations"] == 5
    assert found["omegas"].keys() == {"ada", "bob", "lora", "density"}
    assert found["task_arithmetic"]["omegas"].keys() == {"ada", "bob", "lora"}
    assert f"density: {found['omegas']['density']}" in out.read_text()
    # A page lists the trials of the method only, and is told why it waits.
    densities = [row["parameters"]["density"] for row in record.trials()]
    assert sorted(densities) == sorted(trial["omegas"]["density"] for trial in found["trials"])
    assert told == ["Task arithmetic is searched now with the same budget"]
    progress = record.progress()
    assert progress is not None and progress.method == "ties"
    assert progress.parameters == {"density": found["omegas"]["density"]}


def test_a_benchmark_is_the_aim(world, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(world)
    result = tmp_path / "result.json"
    more = ["--data", "data", "--workdir", str(tmp_path), "--unlimited", "--json", str(result)]
    more += ["--aim", "score", "--method", "greedy", "--levels", "2", "--budget", "2"]
    assert main(["search", "recipe.yml", *more, "--tasks", "demo_cot", "--limit", "3"]) == 0
    said = capsys.readouterr().out
    assert "On demo_cot, first 3 (the search itself measured these questions):" in said
    assert "On all questions of these tasks:" in said and "On validation:" in said
    found = json.loads(result.read_text())
    (row,) = found["benchmarks"]["all questions of these tasks"]
    assert row["task"] == "demo_cot" and 0 <= row["here"] <= 1
    assert main(["search", "recipe.yml", *more, "--force"]) == 2
    assert "Give --aim score with --tasks A,B or --suite NAME" in " ".join(
        capsys.readouterr().err.split()
    )


def test_task_arithmetic_with_parameters_is_not_compared_with_itself(
    world, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(world)
    text = (world / "recipe.yml").read_text() + "parameters: {lambda: 0.5}\n"
    recipe, result = tmp_path / "scaled.yml", tmp_path / "result.json"
    recipe.write_text(text)
    more = ["--data", "data", "--workdir", str(tmp_path), "--aim", "loss", "--unlimited"]
    more += ["--method", "coordinate", "--budget", "1", "--json", str(result)]
    assert main(["search", str(recipe), *more]) == 0
    assert "With the same budget" not in capsys.readouterr().out
    assert "task_arithmetic" not in json.loads(result.read_text())


def test_settings_with_several_values_are_refused(world, monkeypatch, capsys) -> None:
    monkeypatch.chdir(world)
    text = (world / "recipe.yml").read_text().replace("task_arithmetic", "ties")
    other = world / "many.yml"
    for settings in ("weight: 0.5, density: 0.3", "weight: 0.5, density: [0.1, 0.9]"):
        other.write_text(text.replace("weight: 0.5", settings))
        try:
            assert main(["search", "many.yml", "--data", "data"]) == 2
        finally:
            other.unlink()
        assert "density of this recipe has several values" in capsys.readouterr().err


def test_groups_of_layers_are_searched_within_limits(call, tmp_path: Path, capsys) -> None:
    result, out = tmp_path / "result.json", tmp_path / "best.yml"
    more = ["--groups", "part", "--sum-at-most", "0.5", "--norm-at-most", "0.5", "--budget", "12"]
    assert call(*more, "--json", str(result), "--out", str(out)) == 0
    found = json.loads(result.read_text())
    for trial in found["trials"]:
        names = [name for name in trial["omegas"] if name.endswith("in attention")]
        assert len(names) == 3 and sum(trial["omegas"][name] for name in names) <= 0.5 + 1e-9
    assert "ada in attention" in capsys.readouterr().out
    # The recipe that it wrote gives the loss that it reported.
    again = tmp_path / "again.json"
    assert main(["loss", str(out), "--data", "data", "--json", str(again)]) == 0
    losses = [row["value"] for row in json.loads(again.read_text())["losses"]]
    assert sum(losses) / 3 == pytest.approx(found["score"], rel=1e-5)


def test_several_aims_give_a_front(call, tmp_path: Path, capsys) -> None:
    result = tmp_path / "result.json"
    more = ["--aim", "front", "--method", "nsga", "--budget", "20", "--json", str(result)]
    assert call(*more) == 0
    assert "The front, the lowest mean loss first:" in capsys.readouterr().out
    found = json.loads(result.read_text())
    losses = [tuple(trial["losses"].values()) for trial in found["trials"]]
    front = [tuple(each["losses"].values()) for each in found["front"]]
    for mine in losses:
        beaten = any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine
            for other in losses
        )
        assert (mine in front) != beaten
    assert [sum(each) for each in front] == sorted(map(sum, front))
    assert found["front"][0]["omegas"] == found["omegas"]
    assert call("--aim", "front") == 2
    assert "Use nsga or gp" in capsys.readouterr().err


def test_a_vector_is_added_near_the_recipe_and_removed_again(
    world, tmp_path: Path, monkeypatch, capsys
) -> None:
    """The incremental learning of the paper's table 5."""
    monkeypatch.chdir(world)
    two = tmp_path / "two.yml"
    two.write_text(
        "merge_method: task_arithmetic\nbase_model: base\nmodels:\n"
        "  - {model: ada, parameters: {weight: 0.5}}\n  - {model: base+lora, parameters: {weight: 0.3}}\n"
    )
    three, result = tmp_path / "three.yml", tmp_path / "result.json"
    common = ["--data", "data", "--workdir", str(tmp_path / "w"), "--aim", "loss", "--unlimited"]
    common += ["--budget", "9", "--json", str(result), "--force"]
    assert main(["search", str(two), "--add", "bob", "--out", str(three), *common]) == 0
    assert "before," in capsys.readouterr().out
    found = json.loads(result.read_text())
    trials = [trial["omegas"] for trial in found["trials"]]
    assert trials[0] == {"ada": 0.5, "lora": 0.3, "bob": 0.0}
    # What the recipe has is moved by 0.2 at most, the new one over the whole range.
    assert all(
        abs(point["ada"] - 0.5) <= 0.2 and abs(point["lora"] - 0.3) <= 0.2 for point in trials
    )
    assert found["before"]["score"] == pytest.approx(found["trials"][0]["score"], rel=1e-6)
    assert found["score"] <= found["before"]["score"]
    assert main(["search", str(three), "--remove", "ada", *common]) == 0
    found = json.loads(result.read_text())
    assert {trial["omegas"]["ada"] for trial in found["trials"]} == {0.0}
    assert main(["search", str(three), "--remove", "adda", *common]) == 2
    assert "the recipe has no 'adda' to remove; did you mean 'ada'?" in capsys.readouterr().err


def test_a_recipe_with_filters_is_refused(call, world, capsys) -> None:
    text = (world / "recipe.yml").read_text().replace("dem: {", "dem: {include: ['*.mlp.*'], ")
    other = world / "filtered.yml"
    other.write_text(text)
    try:
        assert main(["search", "filtered.yml", "--data", "data"]) == 2
    finally:
        other.unlink()
    assert "slices or filters" in capsys.readouterr().err


def test_trials_are_copied_into_a_study_once(call, capsys, tmp_path: Path) -> None:
    import optuna

    storage = f"sqlite:///{tmp_path}/study.db"
    for _ in range(2):  # the second run measures nothing and adds nothing
        assert call("--method", "coordinate", "--budget", "3", "--storage", storage) == 0
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    assert name.startswith("ω loss coordinate ")
    assert len(study.trials) == 3 and set(study.best_params) == {"ada", "bob", "lora"}
    assert set(study.best_trial.user_attrs) == {"loss of ada", "loss of bob", "loss of lora"}
    # Other settings are another study.
    assert call("--method", "coordinate", "--budget", "2", "--storage", storage) == 0
    assert len(optuna.get_all_study_names(storage)) == 2
    capsys.readouterr()
    assert call("--budget", "3", "--storage", f"sqlite:///{tmp_path}/no/where.db") == 2
    assert "cannot be opened by optuna" in capsys.readouterr().err
