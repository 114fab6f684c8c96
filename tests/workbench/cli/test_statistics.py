"""From the demo's models to statistics, to merges that weigh by them, to a loss: the real parts, end to end."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench.cli import main
from workbench.demo.build import DEMO

DATA = DEMO / "data"
EXPERTS = ("cot", "mathqa")


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the statistics of two experts on a few examples of their own, of both kinds."""
    folder = tmp_path_factory.mktemp("statistics")
    for name in EXPERTS:
        for kind in ("fisher", "gram"):
            words = [
                "statistics",
                str(DEMO / name),
                str(folder / f"{name}.{kind}"),
                "--data",
                str(DATA),
                "--kind",
                kind,
            ]
            assert main([*words, "--dataset", name, "--limit", "7"]) == 0
    return folder


def recipe(
    folder: Path, method: str, kind: str, out: Path, omegas: tuple[float, ...] = (1.0, 1.0)
) -> Path:
    models = "".join(
        f"  - model: {DEMO / name}\n    parameters: {{weight: {omega}, statistics: {folder / name}.{kind}}}\n"
        for name, omega in zip(EXPERTS, omegas, strict=True)
    )
    out.write_text(f"merge_method: {method}\nmodels:\n{models}dem: {{base: {DEMO / 'base'}}}\n")
    return out


@pytest.mark.parametrize(("method", "kind"), [("fisher", "fisher"), ("regmean", "gram")])
@pytest.mark.slow
def test_the_demo_merges_by_statistics(
    collected: Path, tmp_path: Path, method: str, kind: str
) -> None:
    file = recipe(collected, method, kind, tmp_path / "recipe.yml")
    assert main(["merge", str(file), str(tmp_path / "out")]) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0
    words = [
        "loss",
        str(tmp_path / "out"),
        "--data",
        str(DATA),
        "--limit",
        "7",
        "--json",
        str(tmp_path / "loss.json"),
        "--force",
    ]
    assert main(words) == 0
    exported = json.loads((tmp_path / "loss.json").read_text())["losses"]
    assert len(exported) == 5 and all(math.isfinite(row["value"]) for row in exported)
    # the composition in memory is the export
    words[1] = str(file)
    assert main(words) == 0
    assert json.loads((tmp_path / "loss.json").read_text())["losses"] == exported
    # and not the average, though near it
    merged = load_file(tmp_path / "out" / "model.safetensors")
    one, two = (load_file(DEMO / name / "model.safetensors") for name in EXPERTS)
    moved = {name: float((merged[name] - (one[name] + two[name]) / 2).norm()) for name in merged}
    apart = {name: float((one[name] - two[name]).norm()) for name in merged}
    assert max(moved.values()) > 0 and all(moved[name] <= 2 * apart[name] + 1e-4 for name in merged)


@pytest.mark.parametrize(("method", "kind"), [("fisher", "fisher"), ("regmean", "gram")])
def test_one_model_alone_is_itself(collected: Path, tmp_path: Path, method: str, kind: str) -> None:
    file = recipe(collected, method, kind, tmp_path / "recipe.yml", (1.0, 0.0))
    assert main(["merge", str(file), str(tmp_path / "out"), "--dtype", "float32"]) == 0
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in load_file(DEMO / "cot" / "model.safetensors").items():
        torch.testing.assert_close(merged[name], value.float(), rtol=1e-6, atol=1e-7)


def test_what_was_collected_is_said(
    collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "statistics",
        str(DEMO / "cot"),
        str(tmp_path / "x"),
        "--data",
        str(DATA),
        "--kind",
        "fisher",
    ]
    assert main([*words, "--limit", "1", "--split", "validation", "--sampled", "--seed", "3"]) == 0
    told = capsys.readouterr()
    assert (
        "x: fisher of 38 tensors on " in told.out
        and "cot" in told.out
        and " 5 examples, " in told.out
    )
    assert told.err == ""


def test_statistics_of_another_model_are_refused(
    collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recipe(collected, "fisher", "fisher", tmp_path / "recipe.yml")
    file.write_text(file.read_text().replace("mathqa.fisher", "cot.fisher"))
    assert main(["merge", str(file), str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert (
        "mathqa: " in told
        and "was collected on weights with digest" in told
        and "dem statistics " in told
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--kind": "fischer"}, "the kind is 'fischer'; did you mean 'fisher'?"),
        ({"--dataset": "cto"}, "has no dataset 'cto' with train.jsonl; did you mean 'cot'?"),
        ({"--split": "dev"}, "no file <dataset>/dev.jsonl was found"),
        ({"--kind": "gram", "--sampled": None}, "sampled only applies to kind fisher"),
        ({"folder": "nowhere"}, "nowhere does not exist"),
        ({"out": "there"}, "there exists. Give the name of a new file"),
    ],
)
def test_wrong_input_ends_with_code_2_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str | None], message: str
) -> None:
    (tmp_path / "there").touch()
    options = {"--data": str(DATA), "--kind": "fisher", "--dataset": "cot", "--limit": "1"} | change
    places = options.pop("folder", str(DEMO / "cot")), str(tmp_path / str(options.pop("out", "x")))
    words = [word for pair in options.items() for word in pair if word is not None]
    assert main(["statistics", *map(str, places), *words]) == 2
    assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


def test_a_model_without_a_tokenizer_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((DEMO / "cot" / file).read_bytes())
    words = [
        "statistics",
        str(tmp_path),
        str(tmp_path / "x"),
        "--data",
        str(DATA),
        "--kind",
        "gram",
    ]
    assert main(words) == 2
    assert "has no tokenizer. Copy the base model's tokenizer files" in capsys.readouterr().err


def test_what_is_averaged_or_left_out_is_said(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Experts that a module holds as one tensor have no layer to look into; an example may be too long."""
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(world / "base", model_max_length=40)
    tokenizer.save_pretrained(tmp_path / "model")
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=3, eos_token_id=0, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(tmp_path / "model")
    (tmp_path / "data" / "own").mkdir(parents=True)
    rows = [{"prompt": "1 +" * size, "completion": " 2"} for size in (1, 2, 30)]
    (tmp_path / "data" / "own" / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    words = [
        "statistics",
        str(tmp_path / "model"),
        str(tmp_path / "x"),
        "--data",
        str(tmp_path / "data"),
    ]
    capsys.readouterr()
    assert main([*words, "--kind", "gram"]) == 0
    told = capsys.readouterr().err
    assert "warning: own: 1 examples are longer than the model's context and were left out" in told
    assert (
        "warning: matrices without statistics, which a merge averages: " in told
        and "experts.0.w1.weight" in told
    )
