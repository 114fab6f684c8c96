"""The command line: what each command prints and writes, and that wrong input ends with code 2 and nothing written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.cli import main

SHAPES = {
    "model.layers.0.mlp.up_proj.weight": (61, 31),
    "model.layers.1.mlp.up_proj.weight": (61, 31),
    "model.norm.weight": (31,),
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A base and two fine-tunes of it in float32, and a recipe over them with ω = 0.5 and −0.25."""
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    for folder, scale in {"base": 0.0, "math": 0.1, "chat": 0.1}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text('{"model_type": "llama"}')
        tuned = {name: value + scale * torch.randn(value.shape, generator=generator) for name, value in base.items()}
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


def test_merge_writes_equation_2_and_verify_accepts_it(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(models / "recipe.yml"), str(models / "out")]) == 0
    assert "Θ + 0.50·Δmath − 0.25·Δchat" in capsys.readouterr().out
    base, math, chat, out = (load_file(models / name / "model.safetensors") for name in ("base", "math", "chat", "out"))
    for name in SHAPES:
        wanted = (
            base[name].double() + 0.5 * (math[name] - base[name]).double() - 0.25 * (chat[name] - base[name]).double()
        )
        torch.testing.assert_close(out[name].double(), wanted, rtol=0, atol=1e-6)
    assert main(["verify", str(models / "out")]) == 0
    assert "all as written" in capsys.readouterr().out


def test_merge_in_another_dtype(models: Path) -> None:
    assert main(["merge", str(models / "recipe.yml"), str(models / "out"), "--dtype", "bfloat16"]) == 0
    assert {value.dtype for value in load_file(models / "out" / "model.safetensors").values()} == {torch.bfloat16}


def test_inspect_prints_and_writes_the_geometry(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(models / name) for name in ("base", "math", "chat")]
    assert main(["inspect", *folders, "--json", str(models / "report.json")]) == 0
    assert "Cosine of the distribution vectors" in capsys.readouterr().out
    report = json.loads((models / "report.json").read_text())
    assert report["base"]["tensors"] == 3 and report["base"]["parameters"] == 2 * 61 * 31 + 31
    assert report["geometry"]["layers"] == ["0", "1", "norms"]
    assert report["geometry"]["cosine"][0][0] == pytest.approx(1.0)


def test_inspect_of_the_base_itself_has_no_cosine(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(models / "base"), str(models / "base"), "--json", str(models / "r.json")]) == 0
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
def test_a_bad_recipe_is_refused(models: Path, capsys: pytest.CaptureFixture[str], weight: str, message: str) -> None:
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
        (["merge", "{}/recipe.yml", "{}/out", "--device", "cuda"], "not available"),
        (["inspect", "{}/nowhere", "{}/math"], "does not exist"),
        (["inspect", "{}/base", "{}/nowhere"], "does not exist"),
        (["verify", "{}/base"], "MANIFEST.json"),
        (["loss", "{}/base", "--data", "{}"], "validation.jsonl"),
        (["bench", "{}/base"], "--suite"),
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


def test_help_imports_nothing_heavy() -> None:
    """`dem --help` answers at once: no torch, no gradio. The twin proves that the check can fail."""
    heavy = "import sys; from workbench.cli import main; main({}); print([n for n in ('torch', 'gradio') if n in sys.modules])"
    shown = {
        arguments: subprocess.run(
            [sys.executable, "-c", heavy.format(arguments)], capture_output=True, text=True, check=True
        ).stdout.splitlines()[-1]
        for arguments in ("['--help']", "['methods']")
    }
    assert shown == {"['--help']": "[]", "['methods']": "['torch']"}


def test_bench_keeps_its_scores_where_the_page_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from workbench.demo import DEMO, ROOT
    from workbench.session import Session

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
    session = Session([], tmp_path / "workdir")
    (run,) = session.runs()
    (score,) = json.loads((tmp_path / "r.json").read_text())["scores"]
    assert (run.task, run.value, run.n, run.limit, run.suite) == ("demo_sni", score["value"], 3, 3, "")
    assert run.recipe_digest == json.loads((tmp_path / "r.json").read_text())["digest"]
    session.close()
    assert main(["bench", str(DEMO / "base"), "--suite", "demo", "--workdir", str(tmp_path / "workdir")]) == 2
    assert "--workdir keeps the scores of recipes" in capsys.readouterr().err
