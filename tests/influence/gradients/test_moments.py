"""Moments by name: those of a real run, and nothing of another model or another optimiser."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from corpus.records import Example
from influence.errors import InfluenceError
from influence.gradients.adam_direction import direction
from influence.gradients.domain_means import trained_parameters
from influence.gradients.examples import read_examples
from influence.gradients.moments import read_moments
from influence.gradients.per_example import per_example
from training.adapter import Lora
from training.run.finetune import run
from training.run.lora import add_adapter, set_adapter
from training.stage import Stage
from workbench.demo.blank_base import write_blank

RATE = 0.01
PARAMETERS = {"a.weight": torch.zeros(2, 3), "b.weight": torch.zeros(5)}
FACTS = {
    "epoch": 1,
    "updates": [1, 7],
    "mean_rate": 0.25,
    "optimiser": "adamw_torch_fused",
    "betas": [0.9, 0.95],
    "eps": 1e-8,
    "decay": 0.0,
}


@pytest.fixture
def folder(tmp_path):
    """The state of an epoch of two parameters, as training.run.epochs writes it."""
    write(tmp_path)
    return tmp_path


def write(folder, drop=(), **facts):
    tensors = {"step/a.weight": torch.tensor([7]), "step/b.weight": torch.tensor([6])}
    for number, (name, value) in enumerate(PARAMETERS.items()):
        tensors[f"exp_avg/{name}"] = torch.full_like(value, number + 1)
        tensors[f"exp_avg_sq/{name}"] = torch.full_like(value, number + 5)
    save_file(
        {key: value for key, value in tensors.items() if key not in drop},
        folder / "optimiser.safetensors",
    )
    (folder / "epoch.json").write_text(json.dumps(FACTS | facts), "utf-8")


def test_what_was_written_is_read(folder):
    state = read_moments(folder, PARAMETERS)
    assert (state.mean_rate, state.updates) == (0.25, (1, 7))
    assert list(state.moments) == ["a.weight", "b.weight"]
    first, second, steps, betas, eps = state.moments["b.weight"]
    assert first.tolist() == [2] * 5 and second.tolist() == [6] * 5
    assert (steps, betas, eps) == (6, (0.9, 0.95), 1e-8)


def test_another_optimiser_and_a_checkpoint_without_moments_are_refused(folder):
    write(folder, optimiser="sgd", betas=None, eps=None)
    with pytest.raises(InfluenceError, match="was trained by sgd, and Adam's direction needs"):
        read_moments(folder, PARAMETERS)
    for name in ("epoch.json", "optimiser.safetensors"):
        (folder / name).unlink()
        with pytest.raises(InfluenceError, match=f"has no {name}, so Adam's averages are unknown"):
            read_moments(folder, PARAMETERS)
        write(folder)


def test_names_and_shapes_that_differ_are_refused_before_anything_is_read(folder):
    more = PARAMETERS | {"c.weight": torch.zeros(1)}
    with pytest.raises(InfluenceError, match=r"has no moments of: c\.weight; it has those of a\.w"):
        read_moments(folder, more)
    less = {"a.weight": PARAMETERS["a.weight"]}
    with pytest.raises(InfluenceError, match=r"that are not trained: b\.weight"):
        read_moments(folder, less)
    other = PARAMETERS | {"a.weight": torch.zeros(3, 2)}
    with pytest.raises(InfluenceError, match=r"exp_avg/a\.weight is \(2, 3\).*parameter is \(3, 2"):
        read_moments(folder, other)
    write(folder, drop={"exp_avg_sq/b.weight"})
    with pytest.raises(InfluenceError, match=r"has no moments of: b\.weight"):
        read_moments(folder, PARAMETERS)


def test_damaged_files_are_refused(folder):
    (folder / "epoch.json").write_text("{", "utf-8")
    with pytest.raises(InfluenceError, match=r"epoch\.json: cannot be read"):
        read_moments(folder, PARAMETERS)
    write(folder)
    (folder / "optimiser.safetensors").write_bytes(b"nothing")
    with pytest.raises(InfluenceError, match=r"optimiser\.safetensors: cannot be read"):
        read_moments(folder, PARAMETERS)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, Lora(4)])
def test_gamma_is_the_next_step_of_a_real_run(tmp_path, lora):
    """With a single example each epoch is one update; the base has a tied head."""
    example = Example("12 plus 7 is", " 19")
    base = write_blank(tmp_path / "base", [example.prompt] * 9, vocabulary=290, hidden=32)
    plain = {"schedule": "constant", "warmup": 0.0, "decay": 0.0, "clip": None, "rate": RATE}
    stage = Stage(
        base=base, examples=(example,), lora=lora, epochs=3, batch=1, keep_epochs=True,
        precision="fp32", device="cpu", **plain,
    )  # fmt: skip
    epochs = run(stage, tmp_path / "out").folder / "epochs"
    tokenizer = AutoTokenizer.from_pretrained(base)
    before, after = (opened(base, epochs / number, lora) for number in "23")
    state = read_moments(epochs / "2", trained_parameters(before))
    assert state.mean_rate == pytest.approx(RATE) and state.updates == (2, 2)
    (batch,) = per_example(before, read_examples([example], tokenizer))
    for name, parameter in trained_parameters(after).items():
        assert state.moments[name].steps == 2
        step = (trained_parameters(before)[name] - parameter).detach() / RATE
        (gamma,) = direction(batch.of(name), state.moments[name])
        assert (gamma - step).norm() < 1e-4 * step.norm(), name


def opened(base, folder, lora):
    """The model of the checkpoint of an epoch, with the parameters trained that the run trained."""
    if lora is None:
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    model = AutoModelForCausalLM.from_pretrained(base)
    add_adapter(model, lora)
    set_adapter(model, folder)
    return model.eval()
