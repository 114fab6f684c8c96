"""The command line: what each command prints and writes, and that wrong input ends with code 2 and nothing written."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from workbench.cli import main
from workbench.session.runs import read_runs
from workbench.session.workdir import Workdir

SHAPES = {
    "model.layers.0.mlp.up_proj.weight": (61, 31),
    "model.layers.1.mlp.up_proj.weight": (61, 31),
    "model.norm.weight": (31,),
}
CONFIG = {
    "model_type": "llama",
    "vocab_size": 3,
    "hidden_size": 31,
    "intermediate_size": 61,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "head_dim": 2,
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A base and two fine-tunes of it in float32, and a recipe over them with ω = 0.5 and −0.25."""
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    for folder, scale in {"base": 0.0, "math": 0.1, "chat": 0.1}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(CONFIG))
        tuned = {
            name: value + scale * torch.randn(value.shape, generator=generator)
            for name, value in base.items()
        }
        save_file(tuned, tmp_path / folder / "model.safetensors", metadata={"format": "pt"})
    write_recipe(tmp_path, "weight: 0.5")
    return tmp_path


def write_recipe(folder: Path, weight: str) -> Path:
    file = folder / "recipe.yml"
    file.write_text(
        f"""merge_method: task_arithmetic
base_model: base
models:
  - model: math
    parameters: {{{weight}}}
  - model: chat
    parameters: {{weight: -0.25}}
"""
    )
    return file


def test_merge_writes_equation_2_and_verify_accepts_it(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", str(models / "recipe.yml"), str(models / "out")]) == 0
    assert "Θ + 0.50·Δmath − 0.25·Δchat" in capsys.readouterr().out
    base, math, chat, out = (
        load_file(models / name / "model.safetensors") for name in ("base", "math", "chat", "out")
    )
    for name in SHAPES:
        wanted = (
            base[name].double()
            + 0.5 * (math[name] - base[name]).double()
            - 0.25 * (chat[name] - base[name]).double()
        )
        torch.testing.assert_close(out[name].double(), wanted, rtol=0, atol=1e-6)
    assert main(["verify", str(models / "out")]) == 0
    assert "all as written" in capsys.readouterr().out


def test_merge_in_another_dtype(models: Path) -> None:
    assert (
        main(["merge", str(models / "recipe.yml"), str(models / "out"), "--dtype", "bfloat16"]) == 0
    )
    assert {value.dtype for value in load_file(models / "out" / "model.safetensors").values()} == {
        torch.bfloat16
    }


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_merge_on_a_device(
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    device: str,
    method: str,
) -> None:
    """The CPU stands in for `cuda` first, on the same way; then a CUDA device, if there is one."""
    from merging.engine import accelerator as devices

    if device == "cpu":
        monkeypatch.setattr(
            devices, "open_accelerator", lambda name: devices.Accelerator(torch.device(device), 997)
        )
    recipe = models / "recipe.yml"
    recipe.write_text(recipe.read_text().replace("task_arithmetic", method))
    assert main(["merge", str(recipe), str(models / "there"), "--device", "cuda"]) == 0
    said = {
        "task_arithmetic": f"computed on {device}",
        "ties": "computed on the CPU: ties runs only there",
    }
    assert said[method] in capsys.readouterr().out
    card = (models / "there" / "README.md").read_text()
    assert (
        said[method][1:] in card
        and f"dem merge {recipe} {models / 'there'} --device cuda\n" in card
    )
    monkeypatch.undo()
    assert main(["merge", str(recipe), str(models / "plain"), "--device", "cpu"]) == 0
    assert "computed on" not in capsys.readouterr().out
    there, plain = (load_file(models / name / "model.safetensors") for name in ("there", "plain"))
    assert all(torch.equal(there[name], plain[name]) for name in SHAPES)
    assert main(["verify", str(models / "there")]) == 0


def test_inspect_prints_and_writes_the_geometry(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(models / name) for name in ("base", "math", "chat")]
    assert main(["inspect", *folders, "--json", str(models / "report.json")]) == 0
    assert "Cosine of the distribution vectors" in capsys.readouterr().out
    report = json.loads((models / "report.json").read_text())
    assert report["base"]["tensors"] == 3 and report["base"]["parameters"] == 2 * 61 * 31 + 31
    assert report["geometry"]["layers"] == ["0", "1", "norms"]
    assert report["geometry"]["cosine"][0][0] == pytest.approx(1.0)


def test_inspect_of_the_base_itself_has_no_cosine(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "inspect",
                str(models / "base"),
                str(models / "base"),
                "--json",
                str(models / "r.json"),
            ]
        )
        == 0
    )
    assert "undefined" in capsys.readouterr().out
    assert json.loads((models / "r.json").read_text())["geometry"]["cosine"] == [[None]]


def test_methods_lists_formulas_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert "task_arithmetic: Θ + λ · Σ ωᵢ Δᵢ" in out and "lambda = 1.0, -10 to 10" in out


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("weight: .nan", "expected a finite number"),
        ("weight: 1.0e+400", "expected a finite number"),
        ("wieght: 0.5", "did you mean 'weight'"),
        ("weight: [{filter: nothing, value: 1}]", "matches no tensor"),
    ],
)
def test_a_bad_recipe_is_refused(
    models: Path, capsys: pytest.CaptureFixture[str], weight: str, message: str
) -> None:
    recipe = write_recipe(models, weight)
    before = sorted(models.rglob("*"))
    assert main(["merge", str(recipe), str(models / "out")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err and captured.out == ""
    assert sorted(models.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["merge", "{}/nothing.yml", "{}/out"], "is not a file"),
        (["merge", "{}/recipe.yml", "{}/base"], "exists"),
        (["merge", "{}/recipe.yml", "{}/out", "--dtype", "int8"], "expected one of"),
        (
            ["merge", "{}/recipe.yml", "{}/out", "--device", "gpu"],
            "expected cpu, cuda or cuda:N. torch finds cpu",
        ),
        (
            ["merge", "{}/recipe.yml", "{}/out", "--device", "cuda:99"],
            "device 'cuda:99' is not available",
        ),
        (
            ["merge", "{}/recipe.yml", "{}/out", "--device", "cuda", "--as-adapter"],
            "adapters are computed on the CPU",
        ),
        (["inspect", "{}/nowhere", "{}/math"], "does not exist"),
        (["inspect", "{}/base", "{}/nowhere"], "does not exist"),
        (["verify", "{}/base"], "MANIFEST.json"),
        (["loss", "{}/base", "--data", "{}"], "validation.jsonl"),
        (["bench", "{}/base"], "--suite"),
        (
            ["bench", "org/nothing", "--suite", "demo", "--workdir", "{}"],
            "--workdir keeps the scores of recipes",
        ),
        (
            ["inspect", "org/nothing", "{}/math"],
            "org/nothing is not a folder here and not complete in the cache",
        ),
        (["bench", "org/nothing@v1", "--suite", "demo"], "the network is switched off"),
        (
            ["bench", "recipes/mistyped.yml", "--suite", "demo"],
            "recipes/mistyped.yml does not exist. Give a recipe",
        ),
        (["merge"], "RECIPE"),
        (["merg"], "merg"),
    ],
)
def test_wrong_input_ends_with_code_2(
    models: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(models.rglob("*"))
    assert main([argument.replace("{}", str(models)) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
    assert sorted(models.rglob("*")) == before


def test_an_unrelated_checkpoint_is_refused_unless_the_recipe_says_otherwise(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(9)
    other = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    save_file(other, models / "math" / "model.safetensors", metadata={"format": "pt"})
    assert main(["merge", str(models / "recipe.yml"), str(models / "out")]) == 2
    assert "another base" in capsys.readouterr().err
    with (models / "recipe.yml").open("a") as file:
        file.write("dem: {allow_unrelated: true}\n")
    assert main(["merge", str(models / "recipe.yml"), str(models / "out")]) == 0


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    """`dem --help` answers at once: no torch, no gradio. The twin proves that the check can fail."""
    heavy = "import sys; from workbench.cli import main; main({}); print([n for n in ('torch', 'gradio') if n in sys.modules])"
    shown = {
        arguments: subprocess.run(
            [sys.executable, "-c", heavy.format(arguments)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        for arguments in ("['--help']", "['methods']")
    }
    assert shown == {"['--help']": "[]", "['methods']": "['torch']"}


def test_bench_keeps_its_scores_where_the_page_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from workbench.demo.build import DEMO, ROOT

    monkeypatch.chdir(ROOT)
    words = [
        "bench",
        "assets/demo/recipe.yml",
        "--tasks",
        "demo_sni",
        "--limit",
        "3",
        "--json",
        str(tmp_path / "r.json"),
    ]
    assert main([*words, "--workdir", str(tmp_path / "workdir")]) == 0
    (run,) = read_runs(Workdir(tmp_path / "workdir"))
    (score,) = json.loads((tmp_path / "r.json").read_text())["scores"]
    assert (run.task, run.value, run.n, run.limit, run.suite) == (
        "demo_sni",
        score["value"],
        3,
        3,
        "",
    )
    assert run.recipe_digest == json.loads((tmp_path / "r.json").read_text())["digest"]
    assert (
        main(
            ["bench", str(DEMO / "base"), "--suite", "demo", "--workdir", str(tmp_path / "workdir")]
        )
        == 2
    )
    assert "--workdir keeps the scores of recipes" in capsys.readouterr().err


@pytest.mark.slow
def test_hub_ids_stand_wherever_a_folder_may(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fetched in a process of its own, from the hub that the environment names; then from the cache, with no network."""
    from huggingface_hub import constants

    file = Path(__file__).parents[2] / "merging" / "inputs" / "hub_server.py"
    spec = importlib.util.spec_from_file_location("hub_server", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    with module.HubServer() as hub:
        for name, branch in (("base", "main"), ("ada", "v2"), ("lora", "main")):
            hub.add(
                f"org/{name}",
                {file.name: file.read_bytes() for file in (world / name).iterdir()},
                branch,
            )
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
        }

        def inspect(*words: str) -> "subprocess.CompletedProcess[str]":
            code = "import sys; from workbench.cli import main; sys.exit(main(['inspect', *sys.argv[1:]]))"
            command = [sys.executable, "-c", code, *words]
            return subprocess.run(
                command,
                capture_output=True,
                text=True,
                env=os.environ | settings,
                cwd=tmp_path,
                timeout=300,
            )

        done = inspect("org/base", "org/ada@v2", "org/lora", "--json", "there.json")
        assert (done.returncode, done.stderr) == (0, "")
        assert hub.fetched().count("model.safetensors") == 2
        done = inspect("org/base", "org/nothing")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert done.stderr.startswith(
            f"error: org/nothing is not a folder here, and {hub.url} has no model org/nothing that"
        )

    folders = [str(world / name) for name in ("base", "ada", "lora")]
    assert main(["inspect", *folders, "--json", str(tmp_path / "here.json")]) == 0
    here, there = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("here", "there")
    )
    assert there["geometry"] == here["geometry"] and list(there["vectors"]) == ["ada", "lora"]

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    text = (
        (world / "recipe.yml")
        .read_text()
        .replace("base+lora", "org/base+org/lora")
        .replace(": base", ": org/base")
    )
    text = text.replace(": ada", ": org/ada@v2").replace(": bob", f": {world / 'bob'}")
    (tmp_path / "recipe.yml").write_text(text)
    assert main(["merge", str(world / "recipe.yml"), str(tmp_path / "here")]) == 0
    assert main(["merge", str(tmp_path / "recipe.yml"), str(tmp_path / "there")]) == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("here", "there"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "there" / "tokenizer.json").read_bytes() == (
        world / "base" / "tokenizer.json"
    ).read_bytes()
    written = yaml.safe_load((tmp_path / "there" / "recipe.yml").read_text())
    commit = written["dem"]["revision"]
    assert (tmp_path / "home" / "hub" / "models--org--base" / "snapshots" / commit).is_dir()
    assert (
        f"Base Θ: org/base, commit {commit}, digest"
        in (tmp_path / "there" / "README.md").read_text()
    )
    assert "revision" not in yaml.safe_load((tmp_path / "here" / "recipe.yml").read_text())["dem"]
    capsys.readouterr()
    measured = []
    for target in ("org/ada@v2", str(world / "ada")):
        assert main(["loss", target, "--data", str(world / "data")]) == 0
        measured.append(capsys.readouterr().out)
    assert measured[0] == measured[1] and "ada" in measured[0]


# --------------------------------------------------------------------------------------------------- adapters, low rank


@pytest.fixture
def adapters(models: Path) -> Path:
    """Two adapters of the base, of rank 3 and 5, and a recipe over them: lora.yml, with ω = 0.5 and −0.25."""
    generator = torch.Generator().manual_seed(7)
    for name, rank in {"poet": 3, "judge": 5}.items():
        factors = {}
        for tensor in list(SHAPES)[:2]:
            at = f"base_model.model.{tensor.removesuffix('.weight')}.lora_"
            factors[at + "A.weight"] = torch.randn(rank, 31, generator=generator)
            factors[at + "B.weight"] = torch.randn(61, rank, generator=generator)
        (models / name).mkdir()
        save_file(factors, models / name / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}
        (models / name / "adapter_config.json").write_text(json.dumps(config))
    (models / "lora.yml").write_text(
        """merge_method: task_arithmetic
base_model: base
models:
  - model: base+poet
    parameters: {weight: 0.5}
  - model: base+judge
    parameters: {weight: -0.25}
"""
    )
    return models


def test_merge_as_adapter_is_the_merge(adapters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from merging import Checkpoint, LoraVector

    assert main(["merge", str(adapters / "lora.yml"), str(adapters / "full")]) == 0
    assert main(["merge", str(adapters / "lora.yml"), str(adapters / "one"), "--as-adapter"]) == 0
    assert "Θ + 0.50·Δpoet − 0.25·Δjudge" in capsys.readouterr().out
    assert main(["verify", str(adapters / "one")]) == 0
    base, full = Checkpoint(adapters / "base"), load_file(adapters / "full" / "model.safetensors")
    vector = LoraVector(adapters / "one", base)
    assert list(vector) == list(SHAPES)[:2] and vector.rank == 8
    for name in vector:
        torch.testing.assert_close(base[name] + vector[name], full[name], rtol=1e-6, atol=1e-5)
    readme = (adapters / "one" / "README.md").read_text()
    assert f"dem merge {adapters / 'lora.yml'} {adapters / 'one'} --as-adapter" in readme


def test_merge_as_a_truncated_adapter_prints_the_error_per_layer(
    adapters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["merge", str(adapters / "lora.yml"), str(adapters / "one"), "--as-adapter"]
    assert main([*words, "--rank", "2", "--dtype", "bfloat16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "tensors", "rank", "‖Δ‖", "relative", "error"]
    assert [line.split()[:3] for line in lines[1:3]] == [["0", "1", "2"], ["1", "1", "2"]]
    assert 0.1 < float(lines[3].rpartition(" ")[2]) < 0.9
    assert {
        value.dtype for value in load_file(adapters / "one" / "adapter_model.safetensors").values()
    } == {torch.bfloat16}
    assert "--dtype bfloat16 --as-adapter --rank 2" in (adapters / "one" / "README.md").read_text()


def test_extract_writes_an_adapter_and_reports_what_is_missing(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from merging import Checkpoint, LoraVector

    words = ["extract", str(models / "base"), str(models / "math"), str(models / "lora")]
    assert main([*words, "--rank", "7", "--json", str(models / "fit.json")]) == 0
    out = capsys.readouterr().out
    assert (
        " of ‖Δ‖²: norms (tensors: 1)" in out and "is not in the adapter: it holds matrices" in out
    )
    fit = json.loads((models / "fit.json").read_text())
    base, math = (load_file(models / name / "model.safetensors") for name in ("base", "math"))
    vector = LoraVector(models / "lora", Checkpoint(models / "base"))
    for row in fit["tensors"]:
        delta = math[row["name"]].double() - base[row["name"]].double()
        assert row["rank"] == 7
        assert row["error"] == pytest.approx(
            float(torch.linalg.svdvals(delta)[7:].norm()), rel=1e-5
        )
        assert row["error"] == pytest.approx(
            float((delta - vector[row["name"]].double()).norm()), rel=1e-5
        )
    assert 0 < fit["share_left_out"] < 0.02 and fit["left_out"][0]["kind"] == "norms"
    assert fit["checkpoint"] == Checkpoint(models / "math").digest
    assert main(["verify", str(models / "lora")]) == 0
    assert (
        f"dem extract {models / 'base'} {models / 'math'} {models / 'lora'} --rank 7"
        in (models / "lora" / "README.md").read_text()
    )


def test_extract_from_a_fine_tune_with_added_tokens(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The linear modules are extracted; the tables are listed as left out, with the reason."""
    from merging import Checkpoint, LoraVector

    tables = {"base": 3, "math": 5}
    for name, rows in tables.items():
        file = models / name / "model.safetensors"
        tensors = load_file(file) | {"model.embed_tokens.weight": torch.ones(rows, 31)}
        save_file(tensors, file, metadata={"format": "pt"})
    words = ["extract", str(models / "base"), str(models / "math"), str(models / "lora")]
    assert main([*words, "--rank", "7"]) == 0
    assert (
        "embeddings (tensors: 1): the checkpoint has another vocabulary" in capsys.readouterr().out
    )
    vector = LoraVector(models / "lora", Checkpoint(models / "base"))
    assert list(vector) == [name for name in SHAPES if "up_proj" in name]


def test_extract_by_energy_in_another_dtype(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["extract", str(models / "base"), str(models / "math"), str(models / "lora")]
    assert main([*words, "--energy", "0.5", "--dtype", "float16"]) == 0
    assert (
        "relative error of what is in the adapter: 6." in capsys.readouterr().out
    )  # below √(1 − 0.5) = 0.707
    assert {
        value.dtype for value in load_file(models / "lora" / "adapter_model.safetensors").values()
    } == {torch.float16}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["merge", "{}/recipe.yml", "{}/out", "--as-adapter"], "math) is not an adapter"),
        (["merge", "{}/recipe.yml", "{}/out", "--rank", "2"], "add --as-adapter"),
        (
            ["merge", "{}/lora.yml", "{}/out", "--as-adapter", "--shard-gb", "1"],
            "an adapter is one file",
        ),
        (["merge", "{}/lora.yml", "{}/out", "--as-adapter", "--rank", "0"], "--rank"),
        (["merge", "{}/lora.yml", "{}/base", "--as-adapter"], "exists"),
        (["extract", "{}/base", "{}/math", "{}/out"], "give either a rank"),
        (
            ["extract", "{}/base", "{}/math", "{}/out", "--rank", "2", "--energy", "0.5"],
            "give either a rank",
        ),
        (["extract", "{}/base", "{}/math", "{}/out", "--energy", "2"], "expected a share above 0"),
        (
            ["extract", "{}/base", "{}/math", "{}/out", "--rank", "2", "--dtype", "int8"],
            "expected one of",
        ),
        (["extract", "{}/base", "{}/poet", "{}/out", "--rank", "2"], "is an adapter already"),
        (
            ["extract", "{}/base", "{}/math", "{}/out", "--rank", "2", "--embeddings"],
            "ties its output head",
        ),
        (["extract", "{}/base", "{}/nowhere", "{}/out", "--rank", "2"], "does not exist"),
        (
            ["extract", "{}/base", "{}/base", "{}/out", "--rank", "2"],
            "nothing moves the base's matrices",
        ),
        (["extract", "{}/base", "{}/math", "{}/math", "--rank", "2"], "exists"),
    ],
)
def test_wrong_input_for_adapters_ends_with_code_2(
    adapters: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(adapters.rglob("*"))
    assert main([argument.replace("{}", str(adapters)) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert sorted(adapters.rglob("*")) == before


def test_rounding_prints_a_table_per_layer_and_advice(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rounding", str(models / "recipe.yml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "What float32 loses of the merge's displacement"
    assert lines[1].split() == ["layer", "lost", "kept", "cosine", "without", "trace"]
    assert [line.split()[0] for line in lines[2:6]] == ["0", "1", "norms", "whole"]
    assert lines[-1] == "float32 loses 0.0% of the displacement; nothing needs doing."
    before = sorted(path for path in models.rglob("*"))
    words = [
        "rounding",
        str(models / "recipe.yml"),
        "--dtype",
        "bfloat16",
        "--json",
        str(models / "r.json"),
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    report = json.loads((models / "r.json").read_text())
    assert report["dtypes"] == ["bfloat16"] and report["layers"] == ["0", "1", "norms"]
    assert (
        report["columns"] == ["lost", "kept", "cosine", "without trace"]
        and report["not_finite"] == 0
    )
    lost, _, cosine, _ = report["total"]
    assert 0.01 < lost < 0.1 and cosine == pytest.approx(1 / (1 + lost**2) ** 0.5, abs=1e-3)
    assert f"whole model  {lost:.1%}" in out and report["advice"] in out
    assert "out_dtype: bfloat16" in report["recipe"] and len(report["digest"]) == 12
    assert sorted(models.rglob("*")) == sorted([*before, models / "r.json"])


def test_rounding_says_undefined_where_nothing_moves(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(models, "weight: 0.0")
    text = (models / "recipe.yml").read_text().replace("-0.25", "0.0")
    (models / "recipe.yml").write_text(text)
    assert main(["rounding", str(models / "recipe.yml"), "--json", str(models / "r.json")]) == 0
    assert capsys.readouterr().out.count("undefined") == 4 * 4
    assert json.loads((models / "r.json").read_text())["total"] == [None] * 4


def test_vector_saves_deltas_that_merge_to_the_same_bits(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vector", str(models / "base"), str(models / "math"), str(models / "saved")]) == 0
    assert "saved: Δmath, float32, exact, " in capsys.readouterr().out
    assert main(["verify", str(models / "saved")]) == 0
    assert main(["merge", str(models / "recipe.yml"), str(models / "one")]) == 0
    (models / "recipe.yml").write_text(
        (models / "recipe.yml").read_text().replace("model: math", "model: saved")
    )
    assert main(["merge", str(models / "recipe.yml"), str(models / "two")]) == 0
    one, two = (load_file(models / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in SHAPES)


def test_vector_saves_an_analogy(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "vector",
        str(models / "base"),
        str(models / "math"),
        str(models / "d"),
        "--dtype",
        "bfloat16",
    ]
    assert main([*words, "--minus", str(models / "chat"), "--plus", str(models / "math")]) == 0
    assert re.search(
        r"d: Δmath − Δchat \+ Δmath-2, bfloat16, 0.1\d% off, ", capsys.readouterr().out
    )
    base, math, chat, found = (
        load_file(models / name)
        for name in (
            *(f"{one}/model.safetensors" for one in ("base", "math", "chat")),
            "d/delta.safetensors",
        )
    )
    for name in SHAPES:
        wanted = 2 * (math[name] - base[name]) - (chat[name] - base[name])
        torch.testing.assert_close(found[name].float(), wanted, rtol=2**-8, atol=1e-6)


def test_a_vector_on_another_base_is_warned_of(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vector", str(models / "base"), str(models / "math"), str(models / "saved")]) == 0
    capsys.readouterr()
    assert main(["inspect", str(models / "chat"), str(models / "saved")]) == 0
    assert (
        "warning: saved (" in (told := capsys.readouterr().err)
        and "was saved from a base with digest" in told
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vector", "{}/base", "{}/math", "{}/chat"], "exists"),
        (
            ["vector", "{}/base", "{}/math", "{}/out", "--dtype", "int8"],
            "--dtype is 'int8', expected one of float32, bfloat16, float16",
        ),
        (["vector", "{}/base", "{}/nowhere", "{}/out"], "does not exist"),
        (["vector", "{}/base", "{}/math", "{}/out", "--minus", "{}/nowhere"], "does not exist"),
        (["rounding", "{}/nothing.yml"], "is not a file"),
        (["rounding", "{}/recipe.yml", "--dtype", "int8"], "--dtype is 'int8', expected one of"),
    ],
)
def test_vector_and_rounding_refuse_wrong_input(
    models: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(models.rglob("*"))
    assert main([argument.replace("{}", str(models)) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
    assert sorted(models.rglob("*")) == before


def test_weights_shows_what_each_tensor_gets(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(models, "weight: [{filter: layers.1, value: 0.25}, {value: 1}]")
    recipe.write_text(recipe.read_text() + "dem: {exclude: [norm]}\n")
    assert main(["weights", str(recipe), "--json", str(models / "w.json")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["tensor", "math", "chat"],
        ["model.layers.0.mlp.up_proj.weight", "1", "-0.25"],
        ["model.layers.1.mlp.up_proj.weight", "0.25", "-0.25"],
        ["model.norm.weight", "base", "base"],
    ]
    assert json.loads((models / "w.json").read_text())["weights"]["model.norm.weight"] == {
        "math": None,
        "chat": None,
    }


@pytest.fixture
def vocabularies(models: Path) -> Path:
    """The base with embeddings of five rows and a tokenizer; `chat` with one token and row more, `math` as the base."""
    names = ("base", "math", "chat")
    for name in names:
        grown = name == "chat"
        file = models / name / "model.safetensors"
        rows = torch.arange(5.0 + grown)[:, None] + torch.tensor([1.0, 2.0, 3.0])
        save_file(
            {**load_file(file), "model.embed_tokens.weight": rows + names.index(name)},
            file,
            {"format": "pt"},
        )
        added = [{"id": 5, "content": "<|chat|>", "special": True}] if grown else []
        tokenizer = {
            "added_tokens": added,
            "model": {"vocab": {token: number for number, token in enumerate("abcde")}},
        }
        (models / name / "tokenizer.json").write_text(json.dumps(tokenizer))
        config = {"model_type": "llama", "vocab_size": 5 + grown}
        (models / name / "config.json").write_text(json.dumps(config))
    return models


def test_another_vocabulary_is_refused_until_the_recipe_chooses(
    vocabularies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = vocabularies / "recipe.yml", vocabularies / "out"
    before = sorted(vocabularies.rglob("*"))
    assert main(["merge", str(recipe), str(out)]) == 2
    refused = capsys.readouterr()
    assert (
        "its embeddings have 6 rows, the base's 5; its tokenizer adds 1 tokens (<|chat|>)"
        in refused.err
    )
    assert (
        "dem.vocabulary: base" in refused.err
        and "dem.vocabulary: union" in refused.err
        and refused.out == ""
    )
    assert sorted(vocabularies.rglob("*")) == before

    recipe.write_text(recipe.read_text() + "dem: {vocabulary: base}\n")
    assert main(["merge", str(recipe), str(vocabularies / "kept")]) == 0
    assert "warning: chat: its vocabulary is not the base's" in capsys.readouterr().err
    base, kept = (load_file(vocabularies / name / "model.safetensors") for name in ("base", "kept"))
    assert torch.equal(
        kept["model.embed_tokens.weight"], base["model.embed_tokens.weight"] + 0.5
    )  # of math alone

    recipe.write_text(recipe.read_text().replace("vocabulary: base", "vocabulary: union"))
    assert main(["merge", str(recipe), str(out)]) == 0
    told = capsys.readouterr().err
    assert "warning: 1 tokens are added to its tokenizer (<|chat|>), ids 5 to 5" in told
    assert "warning: chat: rows of the 5 tokens that it shares with the base are merged" in told
    rows = load_file(out / "model.safetensors")["model.embed_tokens.weight"]
    assert rows[:, 0].tolist() == [
        1.0,
        2.0,
        3.0,
        4.0,
        5.0,
        8.0,
    ]  # Θ + 0.5·1 − 0.25·2 is Θ; the last is chat's own
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 6
    assert (
        json.loads((out / "tokenizer.json").read_text())["added_tokens"][0]["content"] == "<|chat|>"
    )
    assert main(["verify", str(out)]) == 0


def test_inspect_lists_every_problem_with_its_fix(
    vocabularies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(vocabularies / name) for name in ("base", "math", "chat")]
    report = vocabularies / "report.json"
    assert main(["inspect", *folders, "--json", str(report)]) == 2
    assert "error: chat (" in capsys.readouterr().err
    (problem,) = json.loads(report.read_text())["problems"]
    assert problem["severity"] == "error" and problem["subject"] == "chat"
    assert "another vocabulary" in problem["message"] and "dem.vocabulary: base" in problem["fix"]
    for choice in ("base", "union"):
        assert main(["inspect", *folders, "--vocabulary", choice]) == 0
        told = capsys.readouterr()
        assert "warning: chat: " in told.err and "Cosine of the distribution vectors" in told.out
    assert main(["inspect", *folders, "--vocabulary", "all"]) == 2
    assert "expected one of refuse, base, union" in capsys.readouterr().err


def test_slices_are_merged_to_a_folder(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("math", "chat"):
        (models / folder / "config.json").write_text(
            '{"model_type": "llama", "num_hidden_layers": 2}'
        )
    runs = "- sources: [{model: math, layer_range: [0, 2]}]\n- sources: [{model: chat, layer_range: [1, 2]}]"
    (models / "stack.yml").write_text(f"merge_method: passthrough\nslices:\n{runs}\n")
    assert main(["merge", str(models / "stack.yml"), str(models / "out")]) == 0
    assert "passthrough: Θmath[0:2] ⧺ Θchat[1:2]" in capsys.readouterr().out
    out, chat = (load_file(models / name / "model.safetensors") for name in ("out", "chat"))
    name = "model.layers.{}.mlp.up_proj.weight".format
    assert torch.equal(out[name(2)], chat[name(1)]) and len(out) == 4
    assert json.loads((models / "out" / "config.json").read_text())["num_hidden_layers"] == 3
    assert main(["verify", str(models / "out")]) == 0
    assert main(["rounding", str(models / "stack.yml"), "--dtype", "bfloat16"]) == 0
    capsys.readouterr()
    assert main(["merge", str(models / "stack.yml"), str(models / "lora"), "--as-adapter"]) == 2
    assert "slices make a model of other layers" in capsys.readouterr().err
    assert not (models / "lora").exists()


# ------------------------------------------------------------------------- recipes that make a model of another shape


@pytest.fixture
def reshaped(world: Path, tmp_path: Path) -> Path:
    """slices.yml, which repeats a layer of the world's models, and union.yml, where `tall` adds a token to the base's."""
    runs = "".join(
        f"  - sources: [{{model: {world}/{name}, layer_range: [{first}, 2]}}]\n"
        for name, first in (("ada", 0), ("bob", 1))
    )
    (tmp_path / "slices.yml").write_text(f"merge_method: passthrough\nslices:\n{runs}")
    shutil.copytree(world / "bob", tall := tmp_path / "tall")
    weights = load_file(tall / "model.safetensors")
    rows = weights["model.embed_tokens.weight"]
    save_file(
        {**weights, "model.embed_tokens.weight": torch.cat([rows, rows[:1]])},
        tall / "model.safetensors",
    )
    config, tokenizer = (
        json.loads((tall / name).read_text()) for name in ("config.json", "tokenizer.json")
    )
    (tall / "config.json").write_text(json.dumps({**config, "vocab_size": len(rows) + 1}))
    entry = {**tokenizer["added_tokens"][0], "id": len(rows), "content": "<|tall|>"}
    (tall / "tokenizer.json").write_text(
        json.dumps({**tokenizer, "added_tokens": [*tokenizer["added_tokens"], entry]})
    )
    models = "".join(
        f"  - {{model: {path}, parameters: {{weight: 0.5}}}}\n" for path in (world / "ada", tall)
    )
    (tmp_path / "union.yml").write_text(
        f"merge_method: task_arithmetic\nbase_model: {world}/base\nmodels:\n{models}dtype: bfloat16\n"
        "dem: {vocabulary: union}\n"
    )
    return tmp_path


@pytest.mark.parametrize("name", ["slices", "union"])
def test_a_recipe_of_another_shape_is_measured_as_its_export_is(
    world: Path,
    reshaped: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    scratch = reshaped / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    recipe, data = str(reshaped / f"{name}.yml"), str(world / "data")
    assert main(["merge", recipe, str(reshaped / "out")]) == 0
    capsys.readouterr()
    measured = {}
    for target in (str(reshaped / "out"), recipe):
        json_file = ["--json", str(reshaped / "l.json"), "--force"]
        assert main(["loss", target, "--data", data, *json_file]) == 0
        measured[target] = json.loads((reshaped / "l.json").read_text())
    told = [line for line in capsys.readouterr().err.splitlines() if "written to" in line]
    size = (reshaped / "out" / "model.safetensors").stat().st_size / 1e6
    assert len(told) == 1 and told[0].startswith(
        f"{recipe} makes a model of another shape than its base's: {size:.1f} MB"
    )
    assert f"are written to {scratch}/dem-" in told[0] and list(scratch.iterdir()) == []
    one, other = measured.values()
    assert one["losses"] == other["losses"] and len(other["losses"]) == 3
    assert other["recipe"] == json.loads(json.dumps(other["recipe"])) and "recipe" in other


def test_a_recipe_of_another_shape_is_benchmarked(
    world: Path, reshaped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])  # the demo suite names its data from there
    recipe = str(reshaped / "slices.yml")
    assert main(["merge", recipe, str(reshaped / "out")]) == 0
    found = []
    for target in (str(reshaped / "out"), recipe):
        command = [
            "bench",
            target,
            "--suite",
            "demo",
            "--limit",
            "2",
            "--json",
            str(reshaped / "b.json"),
            "--force",
        ]
        assert main(command) == 0
        found.append(
            [
                {**score, "seconds": 0}
                for score in json.loads((reshaped / "b.json").read_text())["scores"]
            ]
        )
    assert found[0] == found[1] and found[0]


def test_a_disk_without_room_is_told_with_the_way_to_another(
    world: Path, reshaped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = reshaped / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000})())
    assert main(["loss", str(reshaped / "slices.yml"), "--data", str(world / "data")]) == 2
    told = capsys.readouterr()
    assert (
        "GB free, the export needs" in told.err
        and "Temporary folders are made where TMPDIR says." in told.err
    )
    assert list(scratch.iterdir()) == [] and told.out == ""


def test_everything_that_cannot_be_had_is_told(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(models / name) for name in ("base", "nowhere", "math", "gone")]
    assert main(["inspect", *folders]) == 2
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert [word in line for word, line in zip(("nowhere", "gone"), lines, strict=True)] == [
        True,
        True,
    ]
    assert "Norm" in told.out or "norm" in told.out  # what is sound is measured
    for command in (["extract", str(models / "nowhere"), str(models / "gone"), str(models / "o"), "--rank", "2"],
                    ["vector", str(models / "nowhere"), str(models / "gone"), str(models / "o")]):  # fmt: skip
        assert main(command) == 2
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith(f"error: {models / 'nowhere'} does not exist")
        assert second.startswith(f"       {models / 'gone'} does not exist")
