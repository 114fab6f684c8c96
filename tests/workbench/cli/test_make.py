"""The command on a card makes the same folder again, whatever the paths and options were."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from workbench import commands
from workbench.cli import main

UP = "model.layers.0.mlp.up_proj"
SHAPES = {f"{UP}.weight": (61, 31), "model.layers.1.mlp.up_proj.weight": (61, 31)}
PLACE = 'a folder\'s "name" & $HOME'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a base, two fine-tunes, an adapter and recipes, all of odd names."""
    random = torch.Generator().manual_seed(0)
    folder = tmp_path / PLACE
    folder.mkdir()
    monkeypatch.chdir(folder)
    base = {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}
    for name in ("-base", "ma+th", "it's"):
        moved = {
            key: value + 0.1 * torch.randn(value.shape, generator=random)
            for key, value in base.items()
        }
        Path(name).mkdir()
        Path(name, "config.json").write_text("{}")
        save_file(base if name == "-base" else moved, Path(name, "model.safetensors"))
    Path("lo ra").mkdir()
    factors = {
        f"base_model.model.{UP}.lora_A.weight": torch.randn(2, 31, generator=random),
        f"base_model.model.{UP}.lora_B.weight": torch.randn(61, 2, generator=random),
    }
    save_file(factors, "lo ra/adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "-base"}
    Path("lo ra/adapter_config.json").write_text(json.dumps(config))
    for name, models in {"-r e.yml": ["ma+th", "it's"], "lora.yml": ["lo ra"]}.items():
        listed = [{"model": model, "parameters": {"weight": 0.5}} for model in models]
        recipe = {"merge_method": "task_arithmetic", "base_model": "-base", "models": listed}
        Path(name).write_text(json.dumps(recipe))
    return folder


def files(folder: str) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in Path(folder).rglob("*")
        if file.is_file()
    }


def command_of(folder: str) -> list[str]:
    """The words of the card's command, as a shell splits them, without `dem`."""
    lines = Path(folder, "README.md").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("To make it again"))
    words = shlex.split(lines[at + 2])
    assert lines[at + 2].startswith("    dem ") and words[0] == "dem"
    return words[1:]


@pytest.mark.parametrize(
    "words",
    [
        ["merge", "./-r e.yml", "o'ut put"],
        ["merge", "./-r e.yml", "./-out", "--shard-gb", "0.000008", "--dtype", "bfloat16"],
        ["merge", "--device=cpu", "--", "-r e.yml", "-out"],
        ["merge", "lora.yml", "out put", "--as-adapter", "--rank", "1", "--dtype", "float16", "-q"],
        ["extract", "./-base", "ma+th", "out put", "--rank", "3", "--json", "-"],
        ["extract", "./-base", "it's", "out", "--energy", "0.5", "--dtype", "bfloat16"],
        ["vector", "./-base", "it's", "out put", "--minus", "ma+th", "--plus", "lo ra", "--plus", "it's"],
        ["vector", "./-base", "lo ra", "./-out", "--dtype", "bfloat16"],
    ],
)  # fmt: skip
def test_the_command_on_the_card_makes_the_same_bytes(
    words: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0, capsys.readouterr().err
    out = next(name for name in ("o'ut put", "-out", "out put", "out") if Path(name).exists())
    made = files(out)
    again = command_of(out)
    Path(out).rename("kept")
    assert main(again) == 0, capsys.readouterr().err
    assert files(out) == made
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert {word for word in again if word.startswith("--")} == options - {"--", "--json"}


def test_an_export_of_the_page_is_made_again_from_its_own_recipe(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page writes the card with this command; see workbench.jobs.export."""
    assert main(["merge", "./-r e.yml", "out put", "--shard-gb", "0.000008"]) == 0
    line = commands.merge_again(Path("out put"), 8_000)
    assert line == "dem merge 'out put/recipe.yml' 'out put-again' --shard-gb 8e-06"
    assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    weights = {name: data for name, data in files("out put").items() if "safetensors" in name}
    assert len(weights) == 3
    assert {name: files("out put-again")[name] for name in weights} == weights


def test_the_commands_that_the_page_shows_are_quoted(place: Path) -> None:
    assert commands.merge(Path("-r e.yml"), Path("-out"), "float16", 1_234_567_891) == (
        "dem merge './-r e.yml' ./-out --dtype float16 --shard-gb 1.234567891"
    )
    assert commands.merge(Path("r.yml"), Path("out")) == "dem merge r.yml out"
    assert commands.verify(Path("it's")) == """dem verify 'it'"'"'s'"""
