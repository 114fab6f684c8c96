"""Every benchmark runs on models of a hundred thousand parameters and prints its table."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from benchmarks import __main__ as runner
from benchmarks import (
    adapter_memory,
    compose_against_copy,
    copying,
    derivatives_of_adapters,
    device,
    digests_on_the_way,
    evaluation_against_forward,
    factors_against_svd,
    geometry_against_read,
    gradients_in_batches,
    grid_of_demo,
    half_products,
    half_training,
    linear_datamodels,
    live_line,
    machine,
    merge_against_copy,
    merge_against_mergekit,
    merge_memory,
    method_memory,
    methods_against_mergekit,
    misfiled_examples,
    mixtures_compared,
    mounted_against_composed,
    open_and_first_losses,
    packing_against_padding,
    planted_examples,
    predicted_against_measured,
    projection_against_dense,
    questions_in_batches,
    sampler_against_step,
    selections_compared,
    shapes,
    start,
)
from merging.methods import _contract as methods

pytestmark = pytest.mark.slow  # every benchmark is run once, small

TOOLS = {"__init__", "__main__", "copying", "machine", "shapes"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture
def tiny(weights):
    """The options with which a benchmark that needs weights is smallest."""
    return ["--size", "tiny", "--rounds", "1", "--weights", str(weights)]


def tables(printed, name):
    """Return the tables as lists of rows of cells, after checking the facts above them."""
    claim, blank, command, hardware, software, commit, *rest = printed.splitlines()
    assert claim.startswith("Claim: ")
    assert blank == ""
    assert command.startswith(f"command:  python -m benchmarks.{name}")
    assert " cores, " in hardware
    assert f"Python {sys.version.split()[0]}, torch " in software
    assert commit.startswith("commit:   ")
    found, inside = [], False
    for line in rest:
        if line.startswith("| "):
            if not inside:
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip("| ").split(" | ")])
        inside = line.startswith("| ")
    return found


def firsts(table):
    return [row[0] for row in table[2:]]


def test_every_benchmark_has_a_claim_and_is_run_by_make_bench_or_by_hand():
    files = {path.stem: path for path in (machine.ROOT / "benchmarks").glob("*.py")}
    claims = {name for name in files if name not in TOOLS}
    assert sorted([*runner.WEIGHTED, *runner.OTHERS, *runner.BY_HAND]) == sorted(claims)
    assert all(files[name].read_text().startswith('"""Claim: ') for name in claims)


def test_merge_against_copy_by_the_runner_in_a_process_of_its_own(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    runner.main(["--only", "merge_against_copy", "--size", "tiny", "--rounds", "1"])
    (table,) = tables(capfd.readouterr().out, "merge_against_copy")
    copies = [
        *(f"copy, threads: {threads}" for threads in copying.workers()),
        "copy past the page cache",
    ]
    assert firsts(table) == ["export", "stage: write", "stage: read back", "stage: verify", *copies]
    assert all("≤ 1.3: " in row[3] for row in table[-len(copies) :])
    assert list(tmp_path.iterdir()) == []  # weights that nobody keeps are removed


@pytest.mark.parametrize("past_cache", [False, True])
def test_the_copy_has_the_bytes_of_the_first_input(past_cache, tmp_path):
    inputs = [tmp_path / "a", tmp_path / "b"]
    for seed, path in enumerate(inputs):
        path.write_bytes(np.random.default_rng(seed).bytes(2 * copying.BLOCK + 5))
    for threads in (1, 2):
        copying.copy(inputs, tmp_path / f"{threads}", threads, past_cache=past_cache)
        assert (tmp_path / f"{threads}").read_bytes() == inputs[0].read_bytes()


def test_the_stages_of_an_export_add_up_to_it(weights):
    stages = []
    with shapes.checkpoints("tiny", 5, weights) as folder:
        cost = merge_against_copy._export(shapes.recipe(folder, 5), folder / "staged", stages)
    assert sum(stages[0].values()) == pytest.approx(cost.seconds)
    assert min(stages[0].values()) > 0


def test_the_runner_names_the_benchmarks_that_failed(capfd, monkeypatch):
    monkeypatch.setitem(runner.OTHERS, "method_memory", ("--rows", "none"))
    with pytest.raises(SystemExit, match="failed: method_memory"):
        runner.main(["--only", "method_memory"])
    assert "invalid int value: 'none'" in capfd.readouterr().err


def test_the_runner_runs_some_once_more_on_the_real_demo(monkeypatch):
    ran = []

    def done(words, **_):
        ran.append(words[3:])
        return subprocess.CompletedProcess(words, 0, "there\n")

    monkeypatch.setattr(runner.subprocess, "run", done)
    runner.main(["--only", "live_line", "start", "--rounds", "2"])
    assert ran == [
        ["real", "path"],
        ["--rounds", "2"],
        ["--demo", "there", "--large", "none", "--rounds", "2"],
        ["--rounds", "2"],
    ]
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    ran.clear()
    runner.main(["--only", "live_line"])
    assert ran == [[]]


def test_merge_memory(tiny, capsys):
    merge_memory.main([*tiny, "--vectors", "5"])
    (table,) = tables(capsys.readouterr().out, "merge_memory")
    assert [row[:2] for row in table[2:]] == [["158,016", "5"]]
    assert "≤ 400 MB: " in table[-1][-1]


def test_digests_on_the_way(tiny, capsys, monkeypatch):
    monkeypatch.delenv("DEM_CACHE", raising=False)
    digests_on_the_way.main(tiny)
    (table,) = tables(capsys.readouterr().out, "digests_on_the_way")
    assert firsts(table) == ["export, taken", "geometry, taken", "digests alone"]
    assert "DEM_CACHE" not in os.environ


def test_geometry_against_read(tiny, capsys):
    geometry_against_read.main(tiny)
    (table,) = tables(capsys.readouterr().out, "geometry_against_read")
    assert firsts(table) == [
        "geometry",
        *(f"read and copy, threads: {threads}" for threads in copying.workers()),
    ]


def test_compose_against_copy(tiny, capsys):
    compose_against_copy.main(tiny)
    composed, moved = tables(capsys.readouterr().out, "compose_against_copy")
    assert firsts(composed) == [
        "all ω moved",
        *(f"copy, threads: {threads}" for threads in copying.workers()),
    ]
    assert firsts(moved) == ["the same slider again", "each in turn"]
    assert moved[0][1:3] == ["one of 2, seconds", "one of 10, seconds"]


def test_mounted_against_composed(tiny, capsys):
    mounted_against_composed.main([*tiny, "--rank", "3", "--positions", "7"])
    printed = capsys.readouterr().out
    table, counts = tables(printed, "mounted_against_composed")
    assert firsts(counts) == ["1", "2", "8", "16"] and counts[3][2] == "1.00 (1.00–1.00)"
    assert firsts(table) == ["composed", "mounted", "forward alone", "compose alone", "mount alone"]
    assert (
        "92,160 of them in 14 layers that the adapters change (rank 3); 7 positions, module on cpu"
        in printed
    )


def test_a_model_that_does_not_fit_in_memory_gives_way_to_a_smaller_one(monkeypatch):
    free = shapes.nbytes("0.5B", 13) / 0.9
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free + 10))
    assert compose_against_copy._fitting("1.2B", 13) == "0.5B"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free - 10))
    assert compose_against_copy._fitting("1.2B", 13) == "0.1B"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2e9))
    with pytest.raises(
        SystemExit, match=r"13 models of 1\.2B do not fit in 1\.8 GB of free memory"
    ):
        compose_against_copy._fitting("1.2B", 13)


@pytest.mark.browser
@pytest.mark.slow
def test_evaluation_against_forward(tmp_path, capsys):
    from tests.workbench.conftest import write_world

    folder = write_world(tmp_path / "demo")
    evaluation_against_forward.main(["--demo", str(folder), "--rounds", "1"])
    (table,) = tables(capsys.readouterr().out, "evaluation_against_forward")
    assert firsts(table) == ["forward passes", "an evaluation", "with derivatives"]
    assert "≤ 1.15" in table[3][3] and table[2][2].startswith("1.00")


def test_questions_in_batches(capsys):
    questions_in_batches.main(["--rounds", "1", "--questions", "3"])
    (table,) = tables(capsys.readouterr().out, "questions_in_batches")
    assert firsts(table) == ["one at a time", "generate", "in batches"]
    assert [row[5] for row in table[2:]] == ["15 of 15"] * 3
    assert "≤ 0.5" in table[4][6] and table[2][3].startswith("1.00")


def test_derivatives_of_adapters(tmp_path, capsys):
    from tests.workbench.conftest import write_world

    folder = write_world(tmp_path / "demo")
    derivatives_of_adapters.main(["--demo", str(folder), "--rounds", "1"])
    (table,) = tables(capsys.readouterr().out, "derivatives_of_adapters")
    assert firsts(table) == ["loss alone", "by factors", "by weights"]
    assert "≤ 3" in table[3][3] and all(float(row[4].split()[0]) > 100 for row in table[2:])


def test_gradients_in_batches(capsys):
    gradients_in_batches.main(["--examples", "10", "--rounds", "1"])
    (table,) = tables(capsys.readouterr().out, "gradients_in_batches")
    assert firsts(table) == ["LoRA", "LoRA", "all weights", "all weights"]
    assert "≥ 1.8" in table[2][4] and "≥ 1.3" in table[4][4]
    assert all(table[row][3].startswith("1.00") for row in (3, 5))


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory):
    """The demo with two of its datasets, each with a few examples."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("base", "mathqa", "p3"):
        shutil.copytree(machine.DEMO / name, folder / name)
    for name, split in itertools.product(("mathqa", "p3"), ("train", "validation", "test")):
        file = folder / "data" / name / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = (machine.DEMO / "data" / name / file.name).read_text("utf-8")
        file.write_text("".join(whole.splitlines(True)[:40]), "utf-8")
    return folder


def test_misfiled_examples(two_sources, capsys):
    words = ["--rounds", "1", "--examples", "20", "--steps", "2", "--demo", str(two_sources)]
    misfiled_examples.main(words)
    for table in tables(capsys.readouterr().out, "misfiled_examples"):
        assert firsts(table) == list(misfiled_examples.COLUMNS)
        assert all(0 <= float(row[at].split()[0]) <= 1 for row in table[2:] for at in (1, 2))
        assert "≥ 0.8" in table[6][3]


def test_selections_compared(two_sources, capsys):
    small = ["--pool", "30", "--shown", "3", "--steps", "2", "--batch", "4", "--epochs", "1"]
    words = ["--rounds", "1", "--targets", "p3", "--shares", "0.2", "--demo", str(two_sources)]
    selections_compared.main([*words, *small, "--rows", "LESS (sgd), round-robin"])
    (table,) = tables(capsys.readouterr().out, "selections_compared")
    assert firsts(table) == ["random", "LESS (sgd), round-robin", "own source", "all"]
    assert table[2][2].startswith("+0.000")
    assert all(0 < float(row[1].split()[0]) < 10 for row in table[2:])


def test_mixtures_compared(two_sources, capsys):
    small = ["--sizes", "20", "10", "--shown", "4", "--tested", "8", "--steps", "2", "--batch", "4"]
    words = ["--rounds", "1", "--methods", "stratified", "--demo", str(two_sources)]
    mixtures_compared.main([*words, *small])
    (table,) = tables(capsys.readouterr().out, "mixtures_compared")
    assert firsts(table) == ["the pool as it is", "stratified"]
    assert table[2][2].startswith("+0.000")
    assert all(0 < float(row[1].split()[0]) < 10 for row in table[2:])


def test_the_tokens_of_a_mixture_are_those_of_all_trainings_before_it():
    def made(method, tokens, proxy=None):
        return SimpleNamespace(method=method, tokens=tokens, proxy=proxy)

    doremi = made("doremi", 50, SimpleNamespace(tokens=70, reference_tokens=30))
    doge = made("doge", 50, SimpleNamespace(tokens=200, reference_tokens=0))
    rounds = [made("start", 50), made("ideal", 55), made("ideal", 60), made("stratified", 50)]
    spent = mixtures_compared.spent_tokens([*rounds, doremi, doge])
    assert spent == [50, 50 + 55, 50 + 55 + 60, 50, 50 + 70 + 30 + 50, 200 + 50]


def test_planted_examples(two_sources, capsys):
    words = ["--rounds", "1", "--targets", "p3", "--pool", "40", "--shown", "3", "--epochs", "1"]
    rows = ["--rows", "RDS+, maximum", "LESS (sgd), maximum"]
    planted_examples.main([*words, *rows, "--demo", str(two_sources)])
    printed = capsys.readouterr().out.replace("Wanted: p3\n", "")
    (table,) = tables(printed, "planted_examples")
    assert firsts(table) == ["random", *rows[1:]]
    # The copies are what is most like what is shown, so they come first of 41 examples.
    assert all(float(row[2].split()[0]) <= 3 / 41 for row in table[3:])


def test_grid_of_demo(two_sources, tmp_path, capsys):
    words = ["--levels", "3", "--few", "2", "--out", str(tmp_path / "grid.csv")]
    grid_of_demo.main([*words, "--demo", str(two_sources)])
    first = (tmp_path / "grid.csv").read_text()
    printed = [line for line in capsys.readouterr().out.splitlines(True) if " of " not in line[:20]]
    best, _ = tables("".join(printed), "grid_of_demo")
    assert best[0] == ["mathqa", "p3", "mean validation loss"] and len(best) == 2 + 2
    assert len(first.splitlines()) == 1 + 9
    grid_of_demo.main([*words, "--demo", str(two_sources)])
    assert "few: " not in capsys.readouterr().out, "nothing is measured twice"
    assert (tmp_path / "grid.csv").read_text() == first


def test_linear_datamodels(two_sources, tmp_path, capsys):
    words = ["--examples", "12", "--queries", "6", "--halves", "6", "--steps", "1", "--rounds", "2"]
    linear_datamodels.main([*words, "--demo", str(two_sources), "--keep", str(tmp_path)])
    printed = [line for line in capsys.readouterr().out.splitlines(True) if "perfect" not in line]
    (table,) = tables("".join(printed), "linear_datamodels")
    assert firsts(table) == ["EK-FAC", "K-FAC", "dot product", "cosine", "RDS+", "random"]
    assert all(-1 <= float(row[1]) <= 1 for row in table[2:])
    assert table[4][3] == "+0.000–+0.000"


def test_the_score_of_a_linear_datamodel():
    """A loss that is a sum over the half's examples is predicted perfectly; noise lowers it."""
    random = np.random.default_rng(0)
    members = (random.random((40, 20)) < 0.5).astype(float)
    effects = random.normal(size=(20, 5))
    exact = members @ effects
    assert linear_datamodels.lds(2 * exact + 3, exact) == pytest.approx(1)
    assert linear_datamodels.lds(-exact, exact) == pytest.approx(-1)
    # Noise as large as the signal: two seeds correlate by about a half, and a perfect prediction
    # with the mean of 4 by about √(4·½ / (1 + 3·½)) = 0.89.
    noisy = exact + random.normal(size=(4, *exact.shape)) * exact.std(0)
    assert linear_datamodels.ceiling(noisy) == pytest.approx(0.89, abs=0.05)
    assert linear_datamodels.lds(exact, noisy.mean(0)) == pytest.approx(0.89, abs=0.05)


def test_predicted_against_measured(tmp_path, capsys):
    from tests.workbench.conftest import write_world

    folder = write_world(tmp_path / "demo")
    predicted_against_measured.main(["--demo", str(folder), "--rounds", "1", "--moves", "10"])
    accuracy, frame = tables(capsys.readouterr().out, "predicted_against_measured")
    assert firsts(accuracy) == ["2 to 9 compositions", "10 to 17 compositions"]
    # Of three datasets each, one of which may have an expert that is no better than the base.
    assert [int(row[1]) for row in accuracy[2:]] == [24, 6]
    assert firsts(frame) == ["a frame of a drag", "what is prepared while the page is idle"]
    assert float(frame[2][1].split()[0]) < 1000


def test_projection_against_dense(capsys):
    words = ["--examples", "4", "--dimension", "64", "--rounds", "1"]
    projection_against_dense.main(words)
    printed = capsys.readouterr().out
    (table,) = tables(printed, "projection_against_dense")
    assert firsts(table) == ["sparse", "dense, streamed", "dense, plain"]
    # 1/√64 is 0.125; gradients of one model are no worse than random vectors.
    assert all(0.01 < float(row[3]) < 0.25 for row in table[2:])
    assert "≤ 0.01: " in table[2][2] and "≤ 1.05: " in table[2][4]
    assert "gradient of all 1,967,808 weights, in gradients: " in printed and "≤ 2: met" in printed


def test_factors_against_svd(capsys, monkeypatch):
    monkeypatch.setattr(factors_against_svd, "SHAPES", {"small": (300, 40), "wide": (40, 300)})
    factors_against_svd.main(["--rounds", "1", "--rank", "3"])
    (table,) = tables(capsys.readouterr().out, "factors_against_svd")
    assert firsts(table) == [*["small, 300 × 40"] * 2, *["wide, 40 × 300"] * 2]
    # So small a matrix is decomposed as a whole here too.
    assert all(row[5] == "1.0000; ≤ 1.01: met" for row in table[2:])


def test_live_line(tmp_path, capsys):
    for name in ("base", "p3", "dialog"):
        shutil.copytree(machine.DEMO / name, tmp_path / name)
    for name in ("p3", "dialog"):
        file = tmp_path / "data" / name / "validation.jsonl"
        file.parent.mkdir(parents=True)
        whole = (machine.DEMO / "data" / name / "validation.jsonl").read_text("utf-8")
        file.write_text("".join(whole.splitlines(True)[:14]), "utf-8")
    words = ["--rounds", "3", "--pages", "2", "--seconds", "2", "--demo", str(tmp_path)]
    live_line.main([*words, "--large", "tiny"])
    text = capsys.readouterr().out
    table, large = tables(text, "live_line")
    assert [row[0] for row in table[2:]] == [
        "first answer",
        "of it, composed",
        "losses",
        "full losses",
        "the model alone, side by side",
        "the model alone, torch's threads",
        "the model alone, one thread",
    ]
    first, composed, losses, full = (float(row[1]) for row in table[2:6])
    assert 0 < composed <= first <= losses <= full
    assert "last values arrived: 2 of 2" in text
    busy = re.search(r"browser (\d\.\d\d), with the server (\d\.\d\d)", text)
    assert busy and all(float(part) > 0 for part in busy.groups())
    assert [row[0] for row in large[2:]] == ["first answer", "of it, composed", "losses"]
    assert all(float(row[1]) > 0 for row in large[2:])


def test_adapter_memory(capsys):
    adapter_memory.main(["--rounds", "1", "--size", "tiny", "--length", "16"])
    (table,) = tables(capsys.readouterr().out, "adapter_memory")
    assert firsts(table) == ["peak, MB", "update, s"]
    assert all(float(row[at].split()[0]) > 0 for row in table[2:] for at in (1, 2, 3))


def test_packing_against_padding(capsys):
    packing_against_padding.main(["--rounds", "1", "--steps", "4"])
    (table,) = tables(capsys.readouterr().out, "packing_against_padding")
    assert firsts(table) == ["packing", "by_length", "shuffle"]
    assert all(float(row[1].split()[0]) > 0 for row in table[2:])


def test_half_products(capsys):
    half_products.main(["--rounds", "1", "--size", "tiny"])
    (table,) = tables(capsys.readouterr().out, "half_products")
    assert firsts(table) == ["float32", "bfloat16, converted", "bfloat16, torch's own"]
    assert all(float(row[1].split()[0]) >= 0 for row in table[2:])


def test_half_training(capsys):
    half_training.main(["--rounds", "1", "--size", "tiny"])
    (table,) = tables(capsys.readouterr().out, "half_training")
    assert firsts(table) == ["an adapter on tiny"] * 2 + ["all of 1.9M"] * 2
    assert all(float(row[at].split()[0]) > 0 for row in table[2:] for at in (2, 3))


def test_sampler_against_step(capsys):
    sampler_against_step.main(["--rounds", "1", "--batch", "2", "--most", "1000"])
    (table,) = tables(capsys.readouterr().out, "sampler_against_step")
    assert firsts(table) == ["1,000"]
    assert table[2][-1] == "≤ 2 %: met"


def test_start(capsys, monkeypatch):
    monkeypatch.setattr(
        start, "COMMANDS", {name: start.COMMANDS[name] for name in ("python -c pass", "dem --help")}
    )
    start.main(["--rounds", "1"])
    (table,) = tables(capsys.readouterr().out, "start")
    assert firsts(table) == ["python -c pass", "dem --help"]
    assert "≤ 0.5 s: " in table[-1][-1]


def test_method_memory_measures_every_method():
    assert method_memory._names() == list(methods.names())


def test_method_memory(capsys):
    method_memory.main(["--method", "fisher", "regmean", "--rows", "67"])
    (table,) = tables(capsys.readouterr().out, "method_memory")
    assert [row[:2] for row in table[2:]] == [["fisher", "67"], ["regmean", "67"]]


def test_device_on_the_cpu(tmp_path, capsys, monkeypatch):
    words = ["--device", "cpu", "--sizes", "tiny", "--rounds", "1", "--weights", str(tmp_path)]
    device.main(words)
    printed = capsys.readouterr().out
    assert "device:   cpu (the CPU)." in printed
    merged, composed = tables(printed, "device")
    assert firsts(merged) == ["merge on the device", "merge on the CPU"]
    pieces = ["composition, pieces of 2^20", "composition, pieces of 2^24"]
    assert firsts(composed) == [*pieces, "copy of the same bytes", "one step of generation"]
    assert ["≤ 2: " in row[-1] for row in composed[2:]] == [True, True, False, False]
    assert not (tmp_path / "tiny" / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1e5))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e5, total=1e9))
    device.main([*words[:3], "8B", *words[4:]])
    printed = capsys.readouterr().out
    assert "8B: a merge needs 67 GB of disk and 0 are free. It is left out." in printed
    assert (
        "8B: a composition needs 71 GB of device memory and 0 are free. It is left out." in printed
    )


def test_the_composition_of_the_device_benchmark_is_the_merge():
    import torch

    from merging import DistributionVector, Recipe, merge

    module = device._module("tiny", "cpu")
    base = {name: value.clone() for name, value in module.named_parameters()}
    tuned = {"a": {name: value + 1 for name, value in base.items()}}
    device._composer(module, base, tuned, 1009)()
    recipe = Recipe.compose("base", {"a": "a"}, {"a": 0.3})
    wanted = dict(merge(recipe, base, {"a": DistributionVector("a", base, tuned["a"])}))
    assert all(torch.equal(value, wanted[name]) for name, value in module.named_parameters())
    device._copy(module, base, tuned)
    assert all(torch.equal(value, base[name]) for name, value in module.named_parameters())


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_device_says_that_there_is_none(name, capsys):
    device.main(["--device", name])
    printed = capsys.readouterr().out
    assert f"No accelerator here, nothing was measured: device '{name}' is" in printed
    assert tables(printed, "device") == []


@pytest.mark.parametrize("claim", [merge_against_mergekit, methods_against_mergekit])
def test_a_comparison_says_how_to_get_mergekit(claim, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(merge_against_mergekit, "MERGEKIT", tmp_path)
    with pytest.raises(
        SystemExit,
        match="bin/mergekit-yaml does not exist. Install mergekit: make .venv-mergekit/made",
    ):
        claim.main(tiny)


def test_a_method_that_mergekit_does_not_have_is_measured_alone(
    tiny, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(merge_against_mergekit, "MERGEKIT", tmp_path)
    methods_against_mergekit.main([*tiny, "--methods", "tsv"])
    (table,) = tables(capsys.readouterr().out, "methods_against_mergekit")
    assert firsts(table) == ["tsv"] and table[2][4] == "≤ 180: met"
    assert [table[2][at] for at in (2, 3, 6, 7, 8)] == ["–"] * 5


@pytest.fixture
def mergekit():
    """Skips, or fails in CI, where mergekit is not installed."""
    if not (merge_against_mergekit.MERGEKIT / "bin" / "mergekit-yaml").exists():
        stop = pytest.fail if os.environ.get("CI", "").lower() == "true" else pytest.skip
        stop("no .venv-mergekit. Make it: make .venv-mergekit/made")


@pytest.mark.oracle
@pytest.mark.usefixtures("mergekit")
def test_methods_against_mergekit(tiny, capsys):
    methods_against_mergekit.main([*tiny, "--methods", "slerp"])
    (table,) = tables(capsys.readouterr().out, "methods_against_mergekit")
    assert firsts(table) == ["slerp"] and "mergekit" in table[0]
    assert "≤ 1/3: " in table[2][4] and "≤ 1/6: " in table[2][8]


@pytest.mark.oracle
@pytest.mark.usefixtures("mergekit")
def test_merge_against_mergekit(tiny, capsys):
    merge_against_mergekit.main(tiny)
    printed = capsys.readouterr().out
    (table,) = tables(printed, "merge_against_mergekit")
    assert firsts(table) == [
        "seconds until on the disk",
        "peak resident MB",
        "excluding memory-mapped files, MB",
    ]
    assert "mergekit-0.1.5, torch-" in printed


@pytest.mark.parametrize(("large", "compositions"), [("none", 7), ("tiny", 7)])
def test_open_and_first_losses(large, compositions, capsys):
    """Three examples per dataset: the losses that the demo ships are of all, so none is known."""
    open_and_first_losses.main(
        ["--rounds", "1", "--examples", "3", "--questions", "1", "--large", large]
    )
    (table,) = tables(capsys.readouterr().out, "open_and_first_losses")
    numbers = {what: float(text.split()[0]) for what, text in table[2:]}
    assert list(numbers) == list(open_and_first_losses.ROWS)
    assert numbers["compositions"] == numbers["times composed"] == compositions
    assert numbers["again: times composed"] == 1
    waits = [
        numbers[f"{what}, s"] for what in ("first losses", "first bar", "all bars", "all exact")
    ]
    assert waits == sorted(waits) and waits[0] > 0
    before, highest, after = list(numbers.values())[-3:]
    assert min(before, highest, after) > 0


def test_open_and_first_losses_reads_what_the_demo_ships(capsys):
    open_and_first_losses.main(["--rounds", "1", "--questions", "1"])
    (table,) = tables(capsys.readouterr().out, "open_and_first_losses")
    numbers = {what: text.split()[0] for what, text in table[2:]}
    assert numbers["compositions"] == numbers["times composed"] == "1"
