"""dem influence and dem balance on a real study: results, files, and what bad input gets."""

import csv
import json

import pytest

from evaluation.records.ledger import FILE, Ledger
from training.plan.plan_file import read_plan
from workbench.cli import main


@pytest.fixture
def say(capsys):
    """Runs `dem` and returns its code, stdout and stderr."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture(scope="module")
def commanded(study, tmp_path_factory):
    """The study, its store made by the command, and the workdir that has the cost."""
    workdir = tmp_path_factory.mktemp("workdir")
    words = ["influence", "store", study.folder, "--size", "256", "--workdir", workdir]
    assert main([str(word) for word in words]) == 0
    return study.folder, workdir


def test_a_finished_warm_up_is_found_again(say, study, tiny_base, pool_data):
    settings = ["--share", 0.4, "--epochs", 2, "--rate", 5e-3, "--rank", 2, "--batch", 5]
    words = ["influence", "warmup", tiny_base, study.folder, "--data", pool_data]
    code, out, _ = say(*words, *settings)
    assert code == 0 and "2 checkpoints" in out
    code, out, err = say(*words, *settings, "--seed", 3)
    assert code == 2 and not out and "another seed: 0, and 3 was given" in err


def test_the_store_is_complete_and_its_cost_is_kept(say, commanded):
    folder, workdir = commanded
    code, out, _ = say("influence", "store", folder, "--size", 256)
    assert (code, out) == (0, "100 of 100 rows are written.\n")
    with Ledger(workdir / FILE) as ledger:
        [phase] = ledger.phases("influence")
    assert phase.complete and phase.examples == 100


def test_a_selection_is_written_with_its_reasons(say, commanded, pool_data, tmp_path):
    folder, _ = commanded
    out, why = tmp_path / "best.selection.json", tmp_path / "why.json"
    code, text, _ = say(
        "influence", "select", folder, out, "--targets", pool_data, "--count", 6, "--json", why
    )
    assert code == 0 and "LESS (sgd), round_robin: 6 of 50 examples" in text
    rows = list(csv.DictReader((tmp_path / "best.csv").read_text().splitlines()))
    chosen = json.loads(out.read_text())["chosen"]
    assert [[row["source"], int(row["number"])] for row in rows] == [each[:2] for each in chosen]
    reasons = json.loads(why.read_text())
    assert [each["number"] for each in reasons["chosen"]] == [each[1] for each in chosen]
    assert len(reasons["queries"]) == 8 and reasons["queries"][0]["helpers"]


def test_a_study_without_training_is_enough_for_texts_and_is_trained_later(
    say, tiny_base, pool_data, tmp_path
):
    folder, out = tmp_path / "study", tmp_path / "best.selection.json"
    begin = ["influence", "warmup", tiny_base, folder, "--data", pool_data, "--epochs", 1]
    code, text, _ = say(*begin, "--begin-only")
    assert code == 0 and "a study of 50 records" in text
    choose = ["influence", "select", folder, out, "--targets", pool_data, "--share", 0.1]
    assert say(*choose, "--method", "bm25")[0] == 0 and out.exists()
    code, _, err = say("influence", "store", folder)
    assert code == 2 and "the warm-up is not finished" in err
    assert say(*begin, "--share", 0.2)[0] == 2, "another share is another study"
    assert say(*begin)[1].endswith("1 checkpoints in epochs/\n")


def test_both_readings_of_a_subtask_can_be_asked_for(say, commanded, pool_data, tmp_path):
    scores = []
    for reading in ("mean_of_cos", "cos_of_mean"):
        out = tmp_path / f"{reading}.selection.json"
        words = ["--targets", pool_data, "--policy", "max", "--reading", reading]
        assert say("influence", "select", commanded[0], out, *words, "--count", 5)[0] == 0
        scores.append([each[2] for each in json.loads(out.read_text())["chosen"]])
    # The mean of unit vectors is no longer than 1, so a cosine with it is no smaller in size.
    mean, of_mean = scores
    assert all(b > a > 0 for a, b in zip(mean, of_mean, strict=True))


def test_scores_are_a_table_of_the_pool(say, commanded, pool_data, tmp_path):
    folder, _ = commanded
    words = ["influence", "score", folder, tmp_path / "s.csv", "--targets", pool_data]
    code, out, _ = say(*words, "--limit", 2, "--method", "rds")
    assert code == 0 and out.endswith("RDS+, 50 examples × 4\n")
    rows = list(csv.reader((tmp_path / "s.csv").read_text().splitlines()))
    assert len(rows) == 51 and rows[0][2:] == [
        "sums, line 1", "sums, line 2", "words, line 1", "words, line 2",
    ]  # fmt: skip
    before = (tmp_path / "s.csv").read_bytes()
    code, _, err = say(*words, "--method", "bm25")
    assert code == 2 and "exists" in err and (tmp_path / "s.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "lss"], "did you mean 'less'"),
        (["--kind", "adm"], "did you mean 'adam'"),
        (["--reading", "cos_of_means"], "did you mean 'cos_of_mean'"),
        (["--kind", "sign"], "There is no datastore"),
        (["--policy", "best", "--method", "random"], "expected round_robin, max, mean"),
        (["--count", "51", "--method", "random"], "the pool has 50"),
        (["--unit", "words", "--method", "random"], "expected examples, supervised, tokens"),
        (["--split", "dev"], "no file <dataset>/dev.jsonl"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    say, commanded, pool_data, tmp_path, words, said
):
    out = tmp_path / "best.selection.json"
    code, text, err = say("influence", "select", commanded[0], out, "--targets", pool_data, *words)
    assert code == 2 and not text and said in err and len(err.splitlines()) <= 2
    assert not list(tmp_path.iterdir())


PLAN = """
base: {base}
sources: {{sums: {data}/sums, words: {data}/words}}
validation: {{sums: {data}/sums}}
settings: {{steps: 3, batch: 10, rate: 0.003}}
schedule: {{kind: mixing}}
"""


@pytest.fixture
def plan(tiny_base, pool_data, tmp_path):
    """A plan of two domains, of which sums are to become better."""
    file = tmp_path / "plan.yml"
    file.write_text(PLAN.format(base=tiny_base, data=pool_data))
    return file


def test_balance_refuses_a_plan_without_references(say, tiny_base, pool_data, tmp_path):
    plan = tmp_path / "plan.yml"
    plan.write_text(
        f"base: {tiny_base}\nsources: {{sums: {pool_data}/sums}}\n"
        "settings: {steps: 1, batch: 2}\nschedule: {kind: mixing}\n"
    )
    code, out, err = say("balance", plan, tmp_path / "rounds")
    assert code == 2 and not out and "no validation sets" in err
    code, _, err = say("balance", plan, tmp_path / "rounds", "--estimator", "fisher")
    assert code == 2 and "expected one of ekfac" in err
    assert not (tmp_path / "rounds").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "doremy"], "no method is called 'doremy'; expected one of ideal, doremi"),
        (["--method", "uniform"], "An equal share of each domain, which is called uniform too"),
        (["--method", "doge", "--method", "doge"], "expected one or more, each once"),
    ],
)
def test_balance_refuses_methods_by_name(say, plan, tmp_path, words, said):
    code, out, err = say("balance", plan, tmp_path / "out", *words)
    assert code == 2 and not out and said in err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_balance_writes_the_last_mixture_as_a_plan(say, plan, tmp_path):
    rounds = tmp_path / "rounds"
    words = ["balance", plan, rounds, "--rounds", 1, "--sample", 10, "--estimator", "identity"]
    code, out, _ = say(*words, "--json", tmp_path / "out.json")
    assert code == 0 and "predicted change of the mean loss" in out
    first, last = json.loads((tmp_path / "out.json").read_text())["rounds"]
    assert json.loads((rounds / "rounds.json").read_text())["rounds"] == [first, last]
    assert max(abs(beta) for beta in first["beta"].values()) == pytest.approx(0.15)
    assert first["layers"][0]["spread"] is None  # this estimator has no eigenvalues
    code, out, _ = say("train", rounds / "balanced.yml", tmp_path / "out", "--dry-run")
    assert code == 0 and f"{sum(last['sizes'].values())}" in out


@pytest.mark.slow
def test_balance_compares_the_methods_in_one_table(say, plan, tmp_path):
    out, file = tmp_path / "out", tmp_path / "out.json"
    methods = [word for name in ("doremi", "doge", "stratified") for word in ("--method", name)]
    code, text, _ = say("balance", plan, out, *methods, "--json", file)
    lines = [line.split() for line in text.splitlines()]
    assert code == 0 and ["examples", "start", "doremi", "doge", "stratified"] in lines
    start, doremi, doge, stratified = json.loads(file.read_text())["rounds"]
    means = [f"{each['mean']:.4f}" for each in (start, doremi, doge, stratified)]
    assert ["mean", "loss", *means] in lines and len({*means}) > 1
    for made in (doremi, doge):
        rows = list(csv.DictReader((out / f"{made['method']}.csv").read_text().splitlines()))
        assert len(rows) == 4 and float(rows[-1]["sums"]) == made["weights"]["end"]["sums"]
        assert f"{made['method']}: 3 trainings of" in text
    assert "stratified: 2 trainings of" in text and "reference, read" in text
    best = min((doremi, doge, stratified), key=lambda made: made["mean"])
    written = read_plan(out / "balanced.yml")
    [step] = written.steps
    assert {name: int(step.shares[name] * whole) for name, whole in start["sizes"].items()} == (
        best["sizes"]
    )
    assert written.settings["steps"] == 3
