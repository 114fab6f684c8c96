"""`dem compare`: what is stored is shown, what is missing is named or measured, and wrong input leaves nothing behind."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import yaml
from safetensors.torch import load_file, save_file

from workbench.cli import main


@pytest.fixture
def mixed(world, tmp_path):
    """As a model that was trained on mixed data, with what its training cost beside its weights."""
    folder = shutil.copytree(world / "ada", tmp_path / "mixed")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: 1.01 * value for name, value in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    (folder / "training.json").write_text(
        json.dumps({"spent": {"wall_seconds": 30.0, "device_seconds": 59.0}})
    )
    return folder


@pytest.fixture
def dem(world, tmp_path, capsys):
    """Run `dem compare` on the little world; what it printed, what it told, its JSON."""

    def run(*words, code=0, data=True):
        file = tmp_path / "out.json"
        file.unlink(missing_ok=True)
        line = [
            "compare",
            *(str(world / name) for name in ("base", "ada", "bob")),
            "--workdir",
            str(tmp_path / "wd"),
        ]
        line += ["--data", str(world / "data")] if data else []
        assert main([*line, *map(str, words), "--json", str(file)]) == code
        said = capsys.readouterr()
        return said.out, said.err, json.loads(file.read_text()) if file.exists() else None

    return run


def recipe_file(world, folder, **more):
    file = folder / "mine.yml"
    models = [
        {"model": str(world / name), "parameters": {"weight": omega}}
        for name, omega in (("ada", 0.5), ("bob", 0.25))
    ]
    file.write_text(
        yaml.safe_dump(
            {"merge_method": "task_arithmetic", "base_model": str(world / "base"), "models": models}
            | more
        )
    )
    return file


def test_without_measuring_what_is_missing_is_named_and_nothing_is_written(dem, tmp_path):
    out, err, data = dem("--suite", "demo", "--limit", 3)
    assert "wd does not exist: nothing is stored there" in err
    assert not (tmp_path / "wd").exists()
    assert (
        "not measured: losses: base, ada, bob" in out
        and "not measured: benchmark demo, first 3: base, ada, bob" in out
    )
    assert (
        "To measure what is missing, run the same command with --measure." in out
        and "note: no training cost is recorded of ada, bob" in out
    )
    assert [row["name"] for row in data["rows"]] == ["base", "ada", "bob"]
    assert data["missing"][0] == "losses: base, ada, bob" and "cost" not in data


@pytest.mark.slow
def test_measured_once_then_shown_from_the_workdir(dem, world, tmp_path, mixed):
    file = recipe_file(world, tmp_path)
    out, err, first = dem(
        "--measure", "--recipe", file, "--add", mixed, "--tasks", "demo_cot", "--limit", 2
    )
    assert err == "" and "not measured" not in out
    names = [row["name"] for row in first["rows"]]
    assert names == ["base", "ada", "bob", "Θ + 0.50·Δada + 0.25·Δbob", "mixed"]
    assert all(row["missing"] == [] and row["scores"][0]["n"] == 2 for row in first["rows"])
    losses = {name: entry["value"] for name, entry in first["rows"][3]["losses"].items()}
    assert (
        main(
            [
                "loss",
                str(file),
                "--data",
                str(world / "data"),
                "--json",
                str(tmp_path / "loss.json"),
            ]
        )
        == 0
    )
    alone = {
        row["dataset"]: row["value"]
        for row in json.loads((tmp_path / "loss.json").read_text())["losses"]
    }
    assert losses == pytest.approx(
        alone, abs=1e-6
    )  # the oracle: the same recipe, measured by itself
    assert first["rows"][3]["mean_loss"]["value"] == pytest.approx(sum(alone.values()) / 3)

    _, err, again = dem("--recipe", file)  # the added model is remembered, the scores are there
    assert err == "" and again["rows"] == first["rows"] and again["missing"] == []


def test_the_cost_table_from_the_same_workdir(dem, mixed, world, tmp_path):
    _, _, nothing = dem("--cost")
    assert nothing["cost"]["rows"][0]["dem"] is None
    for name, seconds in (("ada", 10), ("bob", 20)):
        file = world / name / "training.json"
        file.write_text(json.dumps({"spent": {"wall_seconds": 1.0, "device_seconds": seconds}}))
    try:
        out, _, data = dem("--cost", "--measure", "--add", mixed)
    finally:
        for name in ("ada", "bob"):
            (world / name / "training.json").unlink()
    one, many = data["cost"]["rows"][0], data["cost"]["rows"][-1]
    assert one["untuned"]["how"] == "measured" and 59 < one["untuned"]["value"] < 70
    assert (
        many["settings"] == 32 and many["dem"]["how"] == "projected" and many["ratio"]["value"] > 10
    )
    assert (
        "What DEM and data mixing cost, in device seconds; ~ is projected, all else measured" in out
    )
    assert "DEM costs less than mixing tuned over as many, from 1 setting on (projected)" in out
    assert (
        "no sweep of a merge is recorded; one is taken to cost as much as one of the base or an expert alone"
        in out
    )
    row = {row["name"]: row for row in data["rows"]}
    assert (
        row["ada"]["cost"]["training_device"] == 10
        and row["mixed"]["cost"]["training_device"] == 59
    )


def test_an_empty_comparison_without_data_has_costs_only(dem):
    out, _, data = dem(data=False)
    assert data["datasets"] == [] and "mean loss" not in out and "not measured" not in out
    assert "To compare losses, add --data DIR; to compare scores, add --suite NAME." in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "demo", "--tasks", "arc_easy"], "give --suite NAME or --tasks A,B, not both"),
        (["--suite", "dmeo"], "no suite is called 'dmeo'; suites here: demo"),
        (["--limit", "5"], "error: --limit only applies to a benchmark. Add --suite NAME"),
        (["--mixed", "nobody"], "--mixed nobody: no model of this name was added; added are none"),
        (["--vocabulary", "union"], "vocabulary 'union' cannot be composed in memory"),
        (["--recipe", "nowhere.yml"], "nowhere.yml is not a file"),
        (["--add", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_told_in_one_message_and_writes_nothing(dem, tmp_path, words, message):
    out, err, data = dem(*words, code=2)
    assert message in err and "Traceback" not in err and out == "" and data is None
    assert not (tmp_path / "wd").exists()


def test_a_recipe_of_other_models_or_another_dtype_is_refused(dem, world, tmp_path):
    other = [{"model": str(world / "mine"), "parameters": {"weight": 1.0}}]
    shutil.copytree(world / "bob", world / "mine")
    try:
        _, err, _ = dem("--recipe", recipe_file(world, tmp_path, models=other), code=2)
    finally:
        shutil.rmtree(world / "mine")
    assert "is no composition of the models given here: it takes mine on" in err
    _, err, _ = dem("--recipe", recipe_file(world, tmp_path, out_dtype="bfloat16"), code=2)
    assert "makes bfloat16, and compositions are compared in the base's float32" in err
    assert not (tmp_path / "wd").exists()


def test_an_adapter_is_not_added_and_the_models_before_it_neither(dem, world, mixed, tmp_path):
    _, err, _ = dem("--add", mixed, "--add", world / "lora", code=2)
    assert "is an adapter, not a full model" in err
    assert not (tmp_path / "wd" / "compared.json").exists()


@pytest.mark.slow
def test_what_cannot_be_measured_is_told_once_and_the_rest_is_kept(dem, caplog):
    out, err, data = dem("--measure", "--tasks", "no_such_task", code=2)
    assert (
        err.count("no_such_task") == 1
        and err.startswith("error: base, ada, bob: ")
        and caplog.text == ""
    )
    assert [entry is not None for row in data["rows"] for entry in row["losses"].values()] == [
        True
    ] * 9
    assert "not measured: benchmark no_such_task: base, ada, bob" in out


@pytest.mark.slow
def test_an_ended_measurement_keeps_what_it_has(world, tmp_path):
    """A real process, ended by SIGTERM once the first losses are in the book."""
    words = [
        "compare",
        *(str(world / name) for name in ("base", "ada", "bob")),
        "--data",
        str(world / "data"),
    ]
    words += ["--workdir", str(tmp_path / "wd"), "--measure", "--suite", "demo"]
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench.cli", *words], stderr=subprocess.PIPE, text=True
    )
    book = tmp_path / "wd" / "losses.sqlite"
    end = time.monotonic() + 100
    while not (
        book.exists()
        and sqlite3.connect(book).execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    ):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    while not sqlite3.connect(book).execute("SELECT count(*) FROM losses").fetchone()[0]:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == f"stopped; what was measured is kept in {tmp_path / 'wd'}"
    jobs = (
        sqlite3.connect(tmp_path / "wd" / "jobs.sqlite")
        .execute("SELECT state FROM jobs")
        .fetchall()
    )
    assert jobs == [("cancelled",)]
